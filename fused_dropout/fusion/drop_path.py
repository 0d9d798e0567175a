"""Stochastic depth layers (drop path) inside of fused modules."""

from typing import NamedTuple

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout import modules as M
from fused_dropout.fusion.class_swap import FusedMixin, fused_class
from fused_dropout.fusion.eligibility import child_not_fusable

#: The keyword arguments of a dropout call that changes nothing.
OFF = {"p": 0.0, "training": False}


class DropPathConfig(NamedTuple):
    """The options of a stochastic depth layer.

    Attributes:
        p: the probability to drop.
        scale: whether kept values are divided by 1 - p.
        per: "row" for one decision per example, "batch" for one decision per call.
    """

    p: float
    scale: bool = True
    per: str = "row"


# {class: function of a module}. A call reads the options of the module, which can change. The
# function returns None for a layer that never drops.
_CONFIGS = {
    nn.Identity: lambda module: None,
    M.DropPath: lambda module: DropPathConfig(
        module.p, module.scale_by_keep and module.mode == "inverted", module.per
    ),
}


def add_drop_path(cls, config):
    """Adds a stochastic depth class; ``config(module)`` returns a :class:`DropPathConfig`."""
    _CONFIGS[cls] = _CONFIGS[fused_class(FusedDropPath, cls)] = config


class FusedDropPath(FusedMixin):
    """The mixin for stochastic depth layers of other libraries."""

    is_dropout = True

    @staticmethod
    def reason_not_fusable(module):
        return None

    @property
    def independent_rows(self):
        return _config_of(self).per == "row"

    def fused_forward(self, x):
        return FF.dropout(x, **drop_path_arguments(self, x.dim()))


def is_drop_path(module):
    """Whether the class of a module is a stochastic depth layer, or ``nn.Identity``."""
    return type(module) in _CONFIGS


def drop_path_not_fusable(name, child):
    """The reason why a stochastic depth layer cannot be bypassed; None if it can."""
    return child_not_fusable(name, child, tuple(_CONFIGS))


def drop_path_arguments(child, dims):
    """The keyword arguments of :func:`FF.dropout` for an input with ``dims`` dimensions."""
    config = _config_of(child)
    classic = type(child) is M.DropPath and child.mode == "classic"
    if config is None or not (child.training or classic):
        return OFF
    return {
        "p": config.p,
        "training": child.training,
        "shared_dims": tuple(range(1 if config.per == "row" else 0, dims)),
        "mode": "inverted" if config.scale else "classic",
    }


def _config_of(module):
    # The class of a fused layer is derived from a class in the table.
    return next(_CONFIGS[cls] for cls in type(module).__mro__ if cls in _CONFIGS)(module)


def row_factors(x, arguments):
    """The factors by which stochastic depth multiplies ``x``.

    Args:
        x: the input, of shape (N, ...).
        arguments: the result of :func:`drop_path_arguments`.

    Returns:
        Tensor: of shape (N, 1, ..., 1) or (1, ..., 1).
    """
    sizes = [1 if dim in arguments["shared_dims"] else n for dim, n in enumerate(x.shape)]
    # At least float32: in 16 bits the scale 1 / (1 - p) would be rounded.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return FF.dropout(torch.ones(sizes, dtype=dtype, device=x.device), **arguments)
