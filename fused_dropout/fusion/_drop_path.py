"""Stochastic depth inside of fused layers: what its layers are told apart by, in one place."""

import torch
from torch import nn

from fused_dropout import functional as FF
from fused_dropout import modules as M
from fused_dropout.fusion._children import obstacle
from fused_dropout.fusion._swap import Fused, fused_class

OFF = {"p": 0.0, "training": False}

# A function of the module and its input's number of dimensions: the arguments of FF.dropout.
_ARGUMENTS = {nn.Identity: lambda module, dims: OFF}


def arguments_of(p, training, dims, scale=True, per="row"):
    """The arguments of :func:`FF.dropout` that make it stochastic depth."""
    if not training:
        return OFF
    return {
        "p": p,
        "training": True,
        "shared_dims": tuple(range(1 if per == "row" else 0, dims)),
        "mode": "inverted" if scale else "classic",
    }


def _ours(module, dims):
    if module.mode == "classic" and not module.training:
        return {**arguments_of(module.p, True, dims, False, module.per), "training": False}
    scale = module.scale_by_keep and module.mode == "inverted"
    return arguments_of(module.p, module.training, dims, scale, module.per)


_ARGUMENTS[M.DropPath] = _ours


class FusedDropPath(Fused):
    """A layer for stochastic depth of another package."""

    is_dropout = True

    @staticmethod
    def why_not(module):
        return "has a forward of its own" if "forward" in module.__dict__ else None

    @property
    def independent_rows(self):
        return 0 not in drop_path_arguments(self, 1).get("shared_dims", ())

    def fused_forward(self, x):
        return FF.dropout(x, **drop_path_arguments(self, x.dim()))


def add_drop_path(cls, arguments):
    """Makes a class known; ``arguments(module, dims)``: see :func:`arguments_of`."""
    _ARGUMENTS[cls] = _ARGUMENTS[fused_class(FusedDropPath, cls)] = arguments


def drop_path_obstacle(name, child):
    """Why stochastic depth cannot be computed in its place; None if it can."""
    return obstacle(name, child, tuple(_ARGUMENTS))


def drop_path_arguments(child, dims):
    """The arguments of :func:`FF.dropout` for an input with so many dimensions."""
    return _ARGUMENTS[type(child)](child, dims)


def row_factors(x, arguments):
    """What stochastic depth multiplies by, of shape (N, 1, ..., 1) or (1, ..., 1)."""
    sizes = [1 if dim in arguments["shared_dims"] else n for dim, n in enumerate(x.shape)]
    # Rounded to 16 bits, the scale would be off.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return FF.dropout(torch.ones(sizes, dtype=dtype, device=x.device), **arguments)
