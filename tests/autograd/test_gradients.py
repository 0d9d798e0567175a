"""Gradients against those of the reference, which autograd differentiates."""

import itertools

import pytest
import torch
from torch.autograd.gradcheck import gradcheck
from torch.func import jvp
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.autograd.derivatives import (
    OPTIONS,
    STATE,
    assert_all_close,
    call_of,
    every_activation,
    given,
    needs,
    operands,
    operands_for,
)
from tests.module_helpers import kept, seed_and_state


@every_activation
@needs
def test_backward(activation, bias, residual):
    inputs = given(operands(bias, residual, (17, 31)))
    ours, theirs = (call(*inputs) for call in call_of(activation, bias, residual))
    upstream = torch.randn_like(ours)
    assert_all_close([ours], [theirs])
    assert_all_close(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)
    )


@every_activation
@needs
def test_double_backward(activation, bias, residual):
    """The gradient of a function of the gradients, by every input and by the upstream gradient."""
    inputs = given(operands(bias, residual))
    upstream = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn_like(one) for one in inputs]
    results = []
    for call in call_of(activation, bias, residual):
        first = torch.autograd.grad(call(*inputs), inputs, upstream, create_graph=True)
        total = sum((one.sin() * weight).sum() for one, weight in zip(first, weights, strict=True))
        second = torch.autograd.grad(
            total, (*inputs, upstream), create_graph=True, materialize_grads=True
        )
        third = torch.autograd.grad(
            sum(one.pow(2).sum() for one in second), upstream, materialize_grads=True
        )
        results.append((*first, *second, *third))
    assert_all_close(*results)


@every_activation
def test_double_backward_in_fp32(activation):
    """The composition takes over from the kernel: first derivatives agree as far as fp32 does."""
    inputs = given(operands(shape=(16, 16), dtype=torch.float32))
    call, _ = call_of(activation)
    upstream = torch.randn(16, 16)
    kernel = torch.autograd.grad(call(*inputs), inputs, upstream)
    composition = torch.autograd.grad(call(*inputs), inputs, upstream, create_graph=True)
    assert_all_close(composition, kernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("residual", [True, False])
def test_options(activation, options, residual):
    """Value, first and second derivatives. ReLU reads its output where there is no residual."""
    inputs = operands_for(options)[: 2 + residual]
    upstream = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for call in call_of(activation, residual=residual, **options):
        y = call(*inputs)
        kernel = torch.autograd.grad(y, inputs, upstream.detach(), retain_graph=True)
        first = torch.autograd.grad(y, inputs, upstream, create_graph=True)
        second = torch.autograd.grad(
            sum(one.pow(3).sum() for one in first), (*inputs, upstream), materialize_grads=True
        )
        results.append((y, *kernel, *first, *second))
    assert_all_close(*results)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_backward_operator_is_differentiable(activation):
    x, bias, _ = operands()
    dy = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def call(dy, x, bias):
        return torch.ops.fused_dropout.bias_act_dropout_backward(
            *(dy, x, bias, STATE),
            *(0.4, None, activation, None, None, -1, "inverted", True, [], None, 0),
            *(False, [5, 1], torch.float64, torch.float64, [True, True]),
        )

    assert gradcheck(call, (dy, x, bias), check_forward_ad=True)


KINKS = torch.tensor([-6.0, -3.0, -0.0, 0.0, 3.0, 6.0, 20.0, -100.0, 100.0], dtype=torch.float64)


@every_activation
@pytest.mark.parametrize("mode", ["kernel", "composition", "forward"])
def test_derivative_at_the_kinks_is_torchs(activation, mode):
    x = KINKS.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(reference.activation(activation, x).sum(), x)

    def call(x):
        return FF.bias_act_dropout(x, None, 1e-10, activation, rng_state=STATE)

    if mode == "forward":
        _, ours = jvp(call, (KINKS,), (torch.ones_like(KINKS),))
    else:
        (ours,) = torch.autograd.grad(call(x).sum(), x, create_graph=mode == "composition")
    torch.testing.assert_close(ours.detach(), wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("path", ["kernel", "composition", "forward"])
@every_activation
def test_what_is_dropped_does_not_leak(activation, path):
    """A NaN or an infinity that is dropped leaves value and derivatives finite."""
    keep = kept(torch.empty(64), 0.5, STATE)
    x = torch.randn(64, dtype=torch.float64)
    for poison in (torch.nan, torch.inf, -torch.inf):
        bad = torch.where(keep, x, poison).requires_grad_()

        def call(x):
            return FF.bias_act_dropout(x, None, 0.5, activation, rng_state=STATE)

        if path == "forward":
            y, ours = jvp(call, (bad.detach(),), (torch.ones_like(x),))
        else:
            y = call(bad)
            (ours,) = torch.autograd.grad(y.sum(), bad, create_graph=path == "composition")
        assert (y[~keep] == 0).all()
        assert (ours[~keep] == 0).all()
        assert ours[keep].isfinite().all()


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("wanted", [one for one in itertools.product([0, 1], repeat=3) if any(one)])
def test_only_what_needs_a_gradient(activation, wanted):
    """One backward operator where x or bias needs it, none for the residual alone."""
    inputs = [
        one.detach().requires_grad_(bool(need))
        for one, need in zip(operands(), wanted, strict=True)
    ]
    ours, theirs = call_of(activation)
    asked = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.fused_dropout.bias_act_dropout_backward.default:
                asked.append(list(args[-1]))
            return function(*args, **kwargs or {})

    y = ours(*inputs)
    upstream = torch.randn_like(y)
    with Spy():
        y.backward(upstream)
    assert asked == ([[bool(wanted[0]), bool(wanted[1])]] if any(wanted[:2]) else [])
    needed = [one for one in inputs if one.requires_grad]
    theirs = torch.autograd.grad(theirs(*inputs), needed, upstream)
    assert_all_close([one.grad for one in needed], theirs)
    assert all(one.grad is None for one in inputs if not one.requires_grad)


def test_gradient_of_a_part_of_the_inputs():
    x, bias, residual = operands()
    call, reference_call = call_of("gelu")
    upstream = torch.randn(3, 5, dtype=torch.float64)
    for wanted in ((bias,), (residual,), (residual, x), (x, bias)):
        ours, theirs = (
            torch.autograd.grad(one(x, bias, residual), wanted, upstream)
            for one in (call, reference_call)
        )
        assert_all_close(ours, theirs)


UPSTREAM = {
    "scalar": lambda y: torch.ones((), dtype=y.dtype).expand_as(y),
    "row": lambda y: torch.randn(y.shape[-1], dtype=y.dtype).expand_as(y),
    "column": lambda y: torch.randn(*y.shape[:-1], 1, dtype=y.dtype).expand_as(y),
    "transposed": lambda y: torch.randn(*y.shape[::-1], dtype=y.dtype).permute(2, 1, 0),
    "stepped": lambda y: torch.randn(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype)[..., ::2],
    "offset": lambda y: torch.randn(y.numel() + 1, dtype=y.dtype)[1:].view_as(y),
    "flipped": lambda y: torch.randn_like(y).flip(0),
    "zeros": lambda y: torch.zeros_like(y),
}


@pytest.mark.parametrize("layout", UPSTREAM)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_upstream_gradients_of_any_layout(layout, activation, dtype):
    x = torch.randn(4, 3, 7).to(dtype).requires_grad_()
    bias = torch.randn(7).to(dtype).requires_grad_()
    y = FF.bias_act_dropout(x, bias, 0.4, activation, rng_state=STATE)
    upstream = UPSTREAM[layout](y)
    ours = torch.autograd.grad(y, (x, bias), upstream, retain_graph=True)
    same = torch.autograd.grad(y, (x, bias), upstream.contiguous())
    assert_all_close(ours, same, rtol=0, atol=0)
    assert ours[0].stride() == x.stride()
    wanted = torch.autograd.grad(
        reference.bias_act_dropout(x, bias, 0.4, activation, STATE), (x, bias), upstream
    )
    assert_all_close(ours, wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_backward_twice():
    x, bias, residual = operands()
    y = call_of("gelu")[0](x, bias, residual)
    first = torch.autograd.grad(y.sum(), (x, bias), retain_graph=True)
    assert_all_close(torch.autograd.grad(y.sum(), (x, bias)), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), (x, bias))


def test_no_graph_without_need():
    x, bias, residual = operands()
    call, _ = call_of("gelu")
    with torch.no_grad():
        assert not call(x, bias, residual).requires_grad
    with torch.inference_mode():
        assert not call(x, bias, residual).requires_grad
    assert not call(*(one.detach() for one in (x, bias, residual))).requires_grad
    assert call(x.detach(), bias, residual.detach()).requires_grad


@pytest.mark.parametrize("activation", FF.ACTIVATIONS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_of_backward_is_that_of_forward(activation, p):
    """From the gradient, not from zeros of the output, which activations make too."""
    torch.manual_seed(13)
    x = torch.rand(31, 33, dtype=torch.float64, requires_grad=True)
    state = seed_and_state(14)
    y = FF.bias_act_dropout(x, None, p, activation, residual=torch.ones_like(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient != 0, kept(x, p, state))
    assert torch.equal(y != 1, kept(x, p, state))


def test_bias_gradient_counts_kept_elements_only():
    """Of a gradient that is not constant."""
    torch.manual_seed(15)
    x, bias = torch.randn(257, 33), torch.zeros(33, requires_grad=True)
    upstream = torch.randn(257, 33)
    state = seed_and_state(16)
    y = FF.bias_act_dropout(x, bias, 0.5, "identity")
    (gradient,) = torch.autograd.grad(y, bias, upstream)
    wanted = (upstream.double() * 2 * kept(x, 0.5, state)).sum(0)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)
