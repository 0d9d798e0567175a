"""Helpers of the tests of the drop-in layers."""

import pytest
import torch
from torch import nn

import fused_dropout as fd
from fused_dropout import reference

# The layers: a shape that each takes, and the dimensions of it that share one outcome.
LAYERS = {
    "Dropout": ((3, 5), ()),
    "Dropout1d": ((3, 4, 5), (2,)),
    "Dropout2d": ((2, 3, 4, 5), (2, 3)),
    "Dropout3d": ((2, 3, 2, 3, 4), (2, 3, 4)),
    "AlphaDropout": ((3, 5), ()),
    "FeatureAlphaDropout": ((2, 3, 4, 5), (2, 3)),
}
WITH_MODE = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
every_layer = pytest.mark.parametrize("name", LAYERS)
every_mode_layer = pytest.mark.parametrize("name", WITH_MODE)


def example(name, *, dtype=torch.float32, **options):
    return torch.randn(LAYERS[name][0], **options).to(dtype)


def layers(name, *args, **options):
    """Ours and torch's."""
    return getattr(fd, name)(*args, **options), getattr(nn, name)(*args, **options)


def mode_of(name):
    return "alpha" if "Alpha" in name else "inverted"


def expected(name, x, p, state):
    return reference.dropout(x, p, state, shared_dims=LAYERS[name][1], mode=mode_of(name))
