"""Stochastic depth inside of fused layers: what its layers are told apart by, in one place."""

from typing import NamedTuple

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout import modules as M
from fused_dropout.fusion.class_swap import FusedMixin, fused_class
from fused_dropout.fusion.eligibility import child_not_fusable

OFF = {"p": 0.0, "training": False}


class DropPathConfig(NamedTuple):
    """What a layer does: ``scale`` what it keeps, and decide ``per`` "row" or "batch"."""

    p: float
    scale: bool = True
    per: str = "row"


# A function of the module: its options can change at any time. None: it does nothing.
_CONFIGS = {
    nn.Identity: lambda module: None,
    M.DropPath: lambda module: DropPathConfig(
        module.p, module.scale_by_keep and module.mode == "inverted", module.per
    ),
}


def add_drop_path(cls, depth):
    """Makes a class known; ``depth(module)`` gives a :class:`DropPathConfig`."""
    _CONFIGS[cls] = _CONFIGS[fused_class(FusedDropPath, cls)] = depth


class FusedDropPath(FusedMixin):
    """A layer for stochastic depth of another package."""

    is_dropout = True

    @staticmethod
    def reason_not_fusable(module):
        return None

    @property
    def independent_rows(self):
        return _config_of(self).per == "row"

    def fused_forward(self, x):
        return FF.dropout(x, **drop_path_arguments(self, x.dim()))


def drop_path_not_fusable(name, child):
    """Why stochastic depth cannot be computed in its place; None if it can."""
    return child_not_fusable(name, child, tuple(_CONFIGS))


def drop_path_arguments(child, dims):
    """The arguments of :func:`FF.dropout` for an input with so many dimensions."""
    depth = _config_of(child)
    classic = type(child) is M.DropPath and child.mode == "classic"
    if depth is None or not (child.training or classic):
        return OFF
    return {
        "p": depth.p,
        "training": child.training,
        "shared_dims": tuple(range(1 if depth.per == "row" else 0, dims)),
        "mode": "inverted" if depth.scale else "classic",
    }


def _config_of(module):
    # A layer can be fused whose class is derived from one that is known.
    return next(_CONFIGS[cls] for cls in type(module).__mro__ if cls in _CONFIGS)(module)


def row_factors(x, arguments):
    """What stochastic depth multiplies by, of shape (N, 1, ..., 1) or (1, ..., 1)."""
    sizes = [1 if dim in arguments["shared_dims"] else n for dim, n in enumerate(x.shape)]
    # Rounded to 16 bits, the scale would be off.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return FF.dropout(torch.ones(sizes, dtype=dtype, device=x.device), **arguments)
