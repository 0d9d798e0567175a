"""Derivatives against finite differences."""

import pytest
import torch
from torch.autograd.gradcheck import gradcheck, gradgradcheck

import fused_dropout.functional as FF
from tests.autograd.derivatives import (
    OPTIONS,
    STATE,
    call_of,
    every_activation,
    given,
    needs,
    operands,
    operands_for,
)


@every_activation
def test_gradcheck(activation):
    ours, _ = call_of(activation)
    assert gradcheck(ours, given(operands()), check_forward_ad=True, check_undefined_grad=False)


@every_activation
def test_gradgradcheck(activation):
    ours, _ = call_of(activation)
    assert gradgradcheck(ours, given(operands()), check_fwd_over_rev=True)


@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck_of_options(activation, options):
    ours, _ = call_of(activation, **options)
    assert gradcheck(ours, operands_for(options), check_forward_ad=True)
    assert gradgradcheck(ours, operands_for(options))


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@needs
def test_gradcheck_of_batched_gradients(activation, bias, residual):
    """vmap over backward, which jacobians are made with."""
    ours, _ = call_of(activation, bias, residual)
    inputs = given(operands(bias, residual))
    assert gradcheck(
        ours,
        inputs,
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


def test_gradcheck_in_other_layouts():
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(x, bias):
        return FF.bias_act_dropout(x, bias, 0.4, "gelu", bias_dim=1, rng_state=STATE)

    for one in (x, x[:, :, ::2], x.transpose(0, 2)[1:]):
        assert gradcheck(call, (one.detach().requires_grad_(), bias))
