"""Helpers of the tests of derivatives.

The reference composes its result from plain torch operators, so that torch's own differentiation
of it says what every derivative has to be.
"""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import fixed_state

STATE = fixed_state()
every_activation = pytest.mark.parametrize("activation", FF.ACTIVATIONS)
needs = pytest.mark.parametrize("bias, residual", [(True, True), (True, False), (False, False)])


def operands(bias=True, residual=True, shape=(3, 5), dtype=torch.float64):
    """x, bias and residual, each of which may be None; away from the kinks of the activations."""
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(size, generator=generator, dtype=dtype) * 2
        for size in (shape, shape[-1:], shape)
    ]
    return [
        one.requires_grad_() if wanted else None
        for one, wanted in zip(made, (True, bias, residual), strict=True)
    ]


def given(tensors):
    return tuple(one for one in tensors if one is not None)


def call_of(activation="gelu", bias=True, residual=True, p=0.4, **options):
    """Ours and the reference's, as functions of the operands that are there."""

    def split(tensors):
        rest = list(tensors)
        return rest.pop(0), rest.pop(0) if bias else None, rest.pop(0) if residual else None

    def ours(*tensors):
        x, b, r = split(tensors)
        return FF.bias_act_dropout(x, b, p, activation, residual=r, rng_state=STATE, **options)

    def theirs(*tensors):
        x, b, r = split(tensors)
        return reference.bias_act_dropout(x, b, p, activation, STATE, residual=r, **options)

    return ours, theirs


def assert_all_close(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


OPTIONS = [
    {"mode": "classic"},
    {"mode": "alpha"},
    {"mode": "classic", "training": False},
    {"training": False},
    {"shared_dims": (0,)},
    {"shared_dims": (1,), "mode": "alpha"},
    {"noise_shape": (1, None)},
    {"p": 1.0},
    {"p": 0.0},
    {"bias_dim": 0},
]


def operands_for(options):
    x, bias, residual = operands()
    return x, bias.detach()[:3].requires_grad_() if "bias_dim" in options else bias, residual
