"""Every public module with its constructor arguments and inputs, for rules that hold for all."""

import functools
from typing import Any, NamedTuple

import torch
from torch import nn

import fused_dropout as fd
from tests.noise.calls import DRAWING


class Entry(NamedTuple):
    make: Any  # takes device and dtype, where there are parameters
    inputs: tuple  # sizes of the tensors that a call takes; None for indices
    has_parameters: bool = True


def _weight_drop(**factory):
    return fd.WeightDrop(nn.Linear(8, 8, **factory), "weight", 0.5)


def _concrete(**factory):
    return fd.ConcreteDropout(0.3, layer=nn.Linear(8, 8, **factory), **factory)


_of = functools.partial
_ROWS = (6, 8)
MODULES = {
    "AlphaDropout": Entry(_of(fd.AlphaDropout, 0.5), (_ROWS,), False),
    "BiasActDropout": Entry(_of(fd.BiasActDropout, 8), (_ROWS,)),
    "BiasDropoutAdd": Entry(_of(fd.BiasDropoutAdd, 8), (_ROWS, _ROWS)),
    "BiasGLUDropout": Entry(_of(fd.BiasGLUDropout, 4), (_ROWS,)),
    "DropBlock1d": Entry(_of(fd.DropBlock1d, 0.5, 3), ((2, 8, 9),), False),
    "DropBlock2d": Entry(_of(fd.DropBlock2d, 0.5, 3), ((2, 8, 9, 9),), False),
    "DropBlock3d": Entry(_of(fd.DropBlock3d, 0.5, 3), ((2, 8, 5, 5, 5),), False),
    "DropConnectLinear": Entry(_of(fd.DropConnectLinear, 8, 8), (_ROWS,)),
    "DropPath": Entry(_of(fd.DropPath, 0.5), ((32, 8),), False),
    "Dropout": Entry(_of(fd.Dropout, 0.5), (_ROWS,), False),
    "Dropout1d": Entry(_of(fd.Dropout1d, 0.5), ((4, 8, 5),), False),
    "Dropout2d": Entry(_of(fd.Dropout2d, 0.5), ((4, 8, 5, 5),), False),
    "Dropout3d": Entry(_of(fd.Dropout3d, 0.5), ((4, 8, 3, 3, 3),), False),
    "DropoutAddLayerNorm": Entry(
        _of(fd.DropoutAddLayerNorm, 8, branch_bias=True, layer_scale_init=0.1), (_ROWS, _ROWS)
    ),
    "DropoutAddRMSNorm": Entry(
        _of(fd.DropoutAddRMSNorm, 8, branch_bias=True, layer_scale_init=0.1), (_ROWS, _ROWS)
    ),
    "EmbeddingDropout": Entry(_of(fd.EmbeddingDropout, 50, 8, 0.5, padding_idx=0), (None,)),
    "FeatureAlphaDropout": Entry(_of(fd.FeatureAlphaDropout, 0.5), ((4, 8, 5),), False),
    "GatedMLP": Entry(_of(fd.GatedMLP, 8, 16, 8), (_ROWS,)),
    "LinearActDropout": Entry(_of(fd.LinearActDropout, 8, 8), (_ROWS,)),
    "LinearGLUDropout": Entry(_of(fd.LinearGLUDropout, 8, 8), (_ROWS,)),
    "LockedDropout": Entry(_of(fd.LockedDropout, 0.5), ((5, 4, 8),), False),
    "MLP": Entry(_of(fd.MLP, 8, 16, 8), (_ROWS,)),
    "WeightDrop": Entry(_weight_drop, (_ROWS,)),
    **{
        call.module.__name__: Entry(call.make_module, (_ROWS,), bool(call.scalars))
        for call in DRAWING.values()
    },
    "ConcreteDropout": Entry(_concrete, (_ROWS,)),
}


def inputs_of(name, **options):
    """Tensors to call a module with; indices for an embedding."""
    return tuple(
        torch.arange(50) if size is None else torch.randn(size, **options)
        for size in MODULES[name].inputs
    )
