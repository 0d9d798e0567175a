"""Every function that takes a shard, and how its tensors are cut into parts.

A call is a name in CALLS. Its tensors are a dict by argument; `cut` makes those of a part.
"""

import functools
import itertools

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.helpers import ORDERS, in_order, state
from tests.noise.calls import DRAWING

P = 0.4
STATE = state()
SHAPE = (4, 7, 5, 6)

CALLS = {
    "dropout": lambda t, **o: FF.dropout(t["x"], P, **o),
    "dropout_": lambda t, **o: FF.dropout(t["x"] * 1, P, inplace=True, **o),
    "classic": lambda t, **o: FF.dropout(t["x"], P, mode="classic", **o),
    "alpha": lambda t, **o: FF.dropout(t["x"], P, mode="alpha", **o),
    "relu": lambda t, **o: FF.bias_act_dropout(t["x"], t["bias"], P, "relu", **o),
    "gelu": lambda t, **o: FF.bias_act_dropout(t["x"], t["bias"], P, residual=t["residual"], **o),
    "channels": lambda t, **o: FF.bias_act_dropout(t["x"], t["channels"], P, bias_dim=1, **o),
    "add": lambda t, **o: FF.bias_dropout_add(t["x"], t["bias"], t["residual"], P, **o),
    "swiglu": lambda t, **o: FF.bias_glu_dropout(t["pair"], t["pair_bias"], P, **o),
    "layer_norm": lambda t, **o: FF.dropout_add_layer_norm(
        t["x"], t["residual"], t["weight"], t["norm_bias"], p=P, **o
    ),
    "rms_norm": lambda t, **o: FF.dropout_add_rms_norm(
        t["x"], t["residual"], t["weight"], p=P, bias=t["bias"], prenorm=True, **o
    ),
    **DRAWING,
}
ARGUMENTS = {
    "relu": ("x", "bias"),
    "gelu": ("x", "bias", "residual"),
    "channels": ("x", "channels"),
    "add": ("x", "bias", "residual"),
    "swiglu": ("pair", "pair_bias"),
    "layer_norm": ("x", "residual", "weight", "norm_bias"),
    "rms_norm": ("x", "residual", "weight", "bias"),
    **{name: (*call.elementwise, *call.scalars) for name, call in DRAWING.items()},
}
NORMS = ("layer_norm", "rms_norm")
every_call = pytest.mark.parametrize("name", CALLS)

# Sizes of the parts along the dimensions that are split.
SPLITS = {
    "first": {0: (2, 2)},
    "uneven": {1: (3, 3, 1)},
    "inner": {2: (2, 2, 1)},
    "last": {3: (4, 2)},
    "single": {1: (1,) * 7},
    "with an empty part": {1: (4, 3, 0)},
    "grid": {0: (1, 3), 2: (4, 1)},
    "everywhere": {0: (3, 1), 1: (2, 5), 2: (4, 1), 3: (5, 1)},
}
every_split = pytest.mark.parametrize("split", SPLITS)


def parts_of(split, shape=SHAPE):
    """A tuple of slices for each part."""
    ranges = []
    for dim, size in enumerate(shape):
        ends = list(itertools.accumulate(SPLITS[split].get(dim, (size,))))
        assert ends[-1] == size
        ranges.append([slice(a, b) for a, b in itertools.pairwise([0, *ends])])
    return list(itertools.product(*ranges))


def shard_of(part, shape=SHAPE, **options):
    return fd.Shard(shape, tuple(one.start for one in part), **options)


def tensors_of(name, shape=SHAPE, order=ORDERS["contiguous"], seed=0):
    """Leaves; those of x's shape lie in memory in this order."""
    generator = torch.Generator().manual_seed(seed)

    def random(*sizes):
        return torch.randn(sizes, generator=generator)

    def laid_out(*sizes):
        return in_order(sizes, order).copy_(random(*sizes))

    width = shape[-1]
    make = {
        "x": lambda: laid_out(*shape),
        "residual": lambda: laid_out(*shape),
        "pair": lambda: laid_out(*shape[:-1], 2 * width),
        "pair_bias": lambda: random(2 * width),
        "channels": lambda: random(shape[1]),
    }
    if name in DRAWING:
        scalars = DRAWING[name].scalars
        make |= dict.fromkeys(DRAWING[name].elementwise, make["x"])
        make |= {key: functools.partial(torch.tensor, scalars[key]) for key in scalars}
    tensors = {}
    for key in ARGUMENTS.get(name, ("x",)):
        tensors[key] = make.get(key, lambda: random(width))().requires_grad_()
    return tensors


def cut(tensors, part, copied=True):
    """A rank's part of the full tensors, as leaves: dense copies, or views."""
    rows, last = part[:-1], part[-1]
    pieces = {}
    for key, full in tensors.items():
        full = full.detach()
        if key in ("pair", "pair_bias"):
            halves = full.chunk(2, -1)
            index = last if key == "pair_bias" else (*rows, last)
            # In one piece, in the full tensor's order of dimensions.
            piece = torch.cat([half[index] for half in halves], -1)
            piece = torch.empty_like(full.expand_as(full)[index_of_pair(index)]).copy_(piece)
        elif full.dim() == 0:
            piece = full
        elif key == "channels":
            piece = full[part[1]]
        else:
            piece = full[part] if full.dim() == len(part) else full[last]
        pieces[key] = (piece.clone() if copied else piece).requires_grad_()
    return pieces


def index_of_pair(index):
    """Slices of what has both halves of a gated unit, as large as the halves' slices together."""
    *rows, last = index if isinstance(index, tuple) else (index,)
    return (*rows, slice(0, 2 * (last.stop - last.start)))


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def upstream_of(results, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [0.3 + torch.randn(one.shape, generator=generator) for one in results]


def gradients_of(results, tensors, upstream):
    """By name; None where there is none."""
    found = torch.autograd.grad(results, list(tensors.values()), upstream, allow_unused=True)
    return dict(zip(tensors, found, strict=True))
