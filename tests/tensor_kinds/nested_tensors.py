"""Nested tensors, and calls of all functions that take them."""

import torch

import fused_dropout.functional as FF
from tests.noise.calls import DRAWING

SIZES = (3, 0, 5)
WIDTH = 8
BIAS = torch.linspace(-1, 1, WIDTH)
STATE = torch.tensor([77, 8])


def randn(*shape):
    """Of a generator of its own: making an input is no draw."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def jagged(grad=False, width=WIDTH):
    parts = [randn(size, width) for size in SIZES]
    return torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=grad)


def strided(grad=False, width=WIDTH):
    parts = [randn(size, width) for size in SIZES]
    return torch.nested.nested_tensor(parts, requires_grad=grad)


def with_holes(grad=False):
    """Jagged, but with values that belong to no part."""
    values, offsets, lengths = (
        randn(10, WIDTH),
        torch.tensor([0, 4, 10]),
        torch.tensor([2, 3]),
    )
    x = torch.nested.nested_tensor_from_jagged(values, offsets, lengths)
    return x.requires_grad_(grad)


def transposed(grad=False):
    return jagged().transpose(1, 2).detach().requires_grad_(grad)


def irregular(grad=False):
    """Strided, with parts that differ in all dimensions."""
    parts = [randn(3, 4), randn(2, 5)]
    return torch.nested.nested_tensor(parts, requires_grad=grad)


REGULAR = {"jagged": jagged, "strided": strided, "with_holes": with_holes}
EVERY = {**REGULAR, "transposed": transposed, "irregular": irregular}


def values_of(x):
    """As a call sees them: those of a strided one as if it were jagged."""
    return x.values().view(-1, WIDTH) if x.layout == torch.strided else x.values()


# Calls by (x, **options): the first ones on tensors of any shape.
ELEMENTWISE = {
    "dropout": lambda x, **o: FF.dropout(x, 0.5, **o),
    "dropout, alpha": lambda x, **o: FF.dropout(x, 0.5, mode="alpha", **o),
    "dropout, classic": lambda x, **o: FF.dropout(x, 0.5, False, mode="classic", **o),
    "bias_act_dropout": lambda x, **o: FF.bias_act_dropout(x, None, 0.5, residual=x, **o),
    "bias_dropout_add": lambda x, **o: FF.bias_dropout_add(x, None, x, 0.5, **o),
    **{call.function: call.of_x for call in DRAWING.values()},
}
ALONG_ROWS = {
    "dropout, tokens": lambda x, **o: FF.dropout(x, 0.5, shared_dims=(-1,), **o),
    "dropout, noise_shape": lambda x, **o: FF.dropout(x, 0.5, noise_shape=_tokens(x), **o),
    "bias_act_dropout, bias": lambda x, **o: FF.bias_act_dropout(x, BIAS, 0.5, **o),
    "bias_dropout_add, bias": lambda x, **o: FF.bias_dropout_add(x, BIAS, x, 0.5, **o),
    "bias_glu_dropout": lambda x, **o: FF.bias_glu_dropout(x, BIAS, 0.5, **o),
    "layer norm": lambda x, **o: FF.dropout_add_layer_norm(x, x, BIAS, BIAS, p=0.5, **o),
    "rms norm": lambda x, **o: FF.dropout_add_rms_norm(x, None, BIAS, bias=BIAS, p=0.5, **o),
}


def _tokens(x):
    return (*[None] * (x.dim() - 1), 1)
