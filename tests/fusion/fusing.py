"""Models and assertions that the tests of fused models share."""

import copy

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout as fd

ENCODER = {"d_model": 16, "nhead": 4, "dim_feedforward": 24}


def mlp(p=0.4):
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(p), nn.Linear(16, 8))


def encoder_layer(**options):
    return nn.TransformerEncoderLayer(**{**ENCODER, "batch_first": True, **options})


def decoder_layer(**options):
    return nn.TransformerDecoderLayer(**{**ENCODER, "batch_first": True, **options})


class Net(nn.Module):
    """A model with modules for several patterns of torch.nn, some nested."""

    def __init__(self, p=0.1):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(p))
        self.encoder = nn.ModuleList([encoder_layer(dropout=p), encoder_layer(dropout=p)])
        self.drop = nn.Dropout(p)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.encoder:
            x = layer(x)
        return self.head(self.drop(x))


def fused_copy(model, *args, **options):
    model = copy.deepcopy(model)
    fd.fuse(model, *args, **options)
    return model


def classes(model):
    return [type(module) for module in model.modules()]


def seeded(model, *inputs, seed=5, **arguments):
    torch.manual_seed(seed)
    return model(*inputs, **arguments)


class _Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.name())
        return function(*args, **(kwargs or {}))


def called(function):
    """The names of this package's operators that a function calls."""
    with _Names() as mode:
        function()
    return {name for name in mode.names if name.startswith("fused_dropout::")}


def uses_kernels(model, *inputs):
    return bool(called(lambda: model(*inputs)))


def assert_as_torch(unfused, fused, *inputs):
    """The original forward runs: no fused kernel is called, and the masks are those of torch."""
    outputs = [seeded(unfused, *inputs)]
    # One call of each model, because some parametrisations change their weight at each call.
    assert not called(lambda: outputs.append(seeded(fused, *inputs)))
    assert torch.equal(*outputs)
