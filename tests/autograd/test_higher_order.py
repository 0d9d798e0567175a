"""Derivatives of the gradients of the pointwise functions."""

import itertools

import pytest
import torch
from torch.autograd.gradcheck import gradgradcheck

import fused_dropout.functional as FF
from tests.autograd.derivatives import (
    STATE,
    assert_all_close,
    call_of,
    every_activation,
    given,
    operands,
)
from tests.module_helpers import kept


def penalty(call, tensors):
    """The gradients of a gradient penalty, as the training of a WGAN takes them."""
    tensors = [one.detach().requires_grad_() for one in tensors]
    upstream = torch.linspace(-1, 1, tensors[0].numel(), dtype=tensors[0].dtype)
    y = call(*tensors)
    dx = torch.autograd.grad(
        (y.square() * upstream.reshape(y.shape)).sum(), tensors[0], create_graph=True
    )[0]
    return torch.autograd.grad((dx.norm() - 1).square(), tensors, materialize_grads=True)


@every_activation
@pytest.mark.parametrize("bias, residual", [(True, True), (True, False), (False, False)])
def test_gradient_penalty(activation, bias, residual):
    tensors = given(operands(bias, residual))
    ours, theirs = (penalty(call, tensors) for call in call_of(activation, bias, residual))
    assert_all_close(ours, theirs)


@every_activation
def test_gradgradcheck_without_residual(activation):
    """Of relu, whose backward reads the output then, too."""
    ours, _ = call_of(activation, residual=False)
    assert gradgradcheck(ours, given(operands(residual=False)))


@every_activation
def test_third_derivatives(activation):
    tensors = given(operands(residual=False))
    results = []
    for call in call_of(activation, residual=False):
        x, bias = (one.detach().requires_grad_() for one in tensors)
        last = call(x, bias).pow(4).sum()
        for _ in range(3):
            grads = torch.autograd.grad(last, (x, bias), create_graph=True, allow_unused=True)
            last = sum(one.pow(3).sum() for one in grads if one is not None)
        results.append([last.detach(), *grads])
    assert_all_close(*results)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu", "hardswish"])
def test_mixed_dtypes(activation):
    """A residual stream in fp32 beside a branch in 16 bits, and a bias in fp32."""
    x, bias, residual = (one.detach().float() for one in operands(shape=(16, 24)))
    ours, _ = call_of(activation)
    low = penalty(ours, (x.bfloat16(), bias, residual))
    full = penalty(ours, (x.bfloat16().float(), bias, residual))
    assert [one.dtype for one in low] == [torch.bfloat16, torch.float32, torch.float32]
    for one, other in zip(low, full, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.03, atol=0.03 * other.abs().max())


@pytest.mark.parametrize("options", [{}, {"shared_dims": (2, 3)}, {"mode": "alpha"}], ids=str)
def test_gradgradcheck_in_other_layouts(options):
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(x, bias):
        return FF.bias_act_dropout(x, bias, 0.4, "gelu", bias_dim=1, rng_state=STATE, **options)

    for one in (x, x[:, :, ::2], x.transpose(0, 2)[1:]):
        assert gradgradcheck(call, (one.detach().requires_grad_(), bias), check_fwd_over_rev=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_dropped_reaches_no_second_derivative(bad):
    x = torch.randn(64, dtype=torch.float64)
    mask = kept(x, 0.5, STATE)
    x[~mask] = bad
    for activation in FF.ACTIVATIONS:
        leaf = x.clone().requires_grad_()
        dy = torch.where(mask, 1.0, bad).double().requires_grad_()
        y = FF.bias_act_dropout(leaf, None, 0.5, activation, rng_state=STATE)
        (dx,) = torch.autograd.grad(y, leaf, dy, create_graph=True)
        upstream = torch.where(mask, 1.0, bad).double()
        for one in torch.autograd.grad(dx, (dy, leaf), upstream, materialize_grads=True):
            assert one.isfinite().all() and (one[~mask] == 0).all()


def test_second_derivative_of_p_in_a_tensor():
    p = torch.tensor(0.4, dtype=torch.float64)
    x = torch.randn(6, 8, dtype=torch.float64)
    results = [
        penalty(lambda x, p=p: FF.bias_act_dropout(x, None, p, "silu", rng_state=STATE), [x])
        for p in (p, 0.4)
    ]
    assert_all_close(*results)


@pytest.mark.parametrize("which", [("dy",), ("x",), ("bias",), ("x", "bias")])
def test_second_order_gradients_that_are_asked_for(which):
    x, bias, _ = operands(residual=False)
    dy = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for call in call_of("mish", residual=False):
        leaves = {"x": x.detach(), "bias": bias.detach(), "dy": dy.detach()}
        for name in {*which, "x", "bias"}:
            leaves[name].requires_grad_()
        first = torch.autograd.grad(
            call(leaves["x"], leaves["bias"]),
            (leaves["x"], leaves["bias"]),
            leaves["dy"],
            create_graph=True,
        )
        for upstream in itertools.product([0, 1], repeat=2):
            loss = sum(u * one.pow(2).sum() for u, one in zip(upstream, first, strict=True))
            if any(upstream):
                wanted = [leaves[name] for name in which]
                results.append(torch.autograd.grad(loss, wanted, retain_graph=True))
    half = len(results) // 2
    for one, other in zip(results[:half], results[half:], strict=True):
        assert_all_close(one, other)
