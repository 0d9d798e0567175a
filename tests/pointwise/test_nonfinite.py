"""NaN, infinity and zeros: dropped values do not leak, kept values behave as in torch."""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import ACTIVATIONS, DTYPES, operator, reference_mask, same_bits, state

SHAPE = (37, 19)


def gradients_of(x, bias, residual, dy, **options):
    leaves = [t.detach().clone().requires_grad_() for t in (x, bias, residual) if t is not None]
    given = iter(leaves)
    operands = [None if t is None else next(given) for t in (x, bias, residual)]
    y = operator(*operands, state(), p=0.4, **options)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dropped_elements_do_not_leak(capability, activation, dtype):
    """The value of a dropped element, in `x` or in the upstream gradient, changes no bit."""
    check_leaks(activation, dtype, "inverted", with_residual=False)
    check_leaks(activation, dtype, "alpha", with_residual=True)


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("mode", FF.MODES)
def test_dropped_elements_do_not_leak_in_any_mode(capability, mode, with_residual):
    for dtype in DTYPES:
        for activation in ("identity", "relu", "gelu"):
            check_leaks(activation, dtype, mode, with_residual)


def check_leaks(activation, dtype, mode, with_residual):
    generator = torch.Generator().manual_seed(0)
    x, residual, dy = torch.randn(3, *SHAPE, generator=generator).to(dtype)
    bias = torch.randn(SHAPE[1], generator=generator).to(dtype)
    residual = residual if with_residual else None
    options = {"activation": activation, "mode": mode}
    clean = gradients_of(x, bias, residual, dy, **options)

    kept = reference_mask(SHAPE, 0.4)
    poison = torch.tensor([torch.nan, torch.inf, -torch.inf, -1.0], dtype=dtype)
    poison = poison.repeat(SHAPE[0] * SHAPE[1])[: kept.numel()].view(SHAPE)
    x, bad = torch.where(kept, x, poison), torch.where(kept, dy, poison.flip(0))
    # The last result is the residual's gradient, which is `dy` itself.
    for upstream in (dy, bad):
        got = gradients_of(x, bias, residual, upstream, **options)[:3]
        leaks = [not same_bits(a, b) for a, b in zip(got, clean[:3], strict=True)]
        assert leaks == [False, False, False], "of y, dx, dbias"


def special_values(dtype):
    # The largest that no activation overflows with, but for its square.
    finite = [0.0, 1e-6, 0.5, 1.0, 3.0, 6.0, 10.0, 20.0, 100.0, torch.finfo(dtype).max / 8]
    values = torch.tensor([*finite, torch.inf, torch.finfo(dtype).tiny / 4], dtype=dtype)
    return torch.cat([values, -values, torch.tensor([torch.nan], dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_values(capability, activation, dtype):
    """Where torch gives a number or an infinity, so do we; NaN stays NaN.

    torch's NaN for an infinite argument (`-inf * 0`) may be the limit here.
    """
    x = special_values(dtype).requires_grad_()
    y = operator(x, p=0.0, activation=activation, training=False)
    exact = reference.activation(activation, x.detach().double())
    close = torch.isclose(y.double(), exact.to(dtype).double(), rtol=0.01, atol=1e-6)
    # Not the gelu of torch in fp64, whose x * 0 is NaN at -inf, but the limit.
    assert (close | exact.isnan()).all()
    assert y[x.isnan()].isnan().all()
    finite_argument = ~x.isinf()
    assert (y.isnan() == x.isnan())[finite_argument].all()


UPSTREAM = (1.0, -2.0, 0.0, torch.inf, -torch.inf, torch.nan)


def special_gradients(activation, dtype):
    """Arguments, upstream gradients, our dx and that of torch in float64, in all combinations."""
    x = special_values(dtype)[:, None].expand(-1, len(UPSTREAM)).contiguous().requires_grad_()
    dy = torch.tensor(UPSTREAM, dtype=dtype).expand_as(x)
    y = operator(x, p=0.0, activation=activation, training=False)
    (dx,) = torch.autograd.grad(y, x, dy)
    double = x.detach().double().requires_grad_()
    z = reference.activation(activation, double)
    (exact,) = torch.autograd.grad(z, double, dy.double())
    return x.detach(), dy, dx, exact.to(dtype)


def as_rows(selected, *tensors):
    return [tuple(float(t[tuple(index)]) for t in tensors) for index in selected.nonzero()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_special_gradients(capability, activation, dtype):
    """NaN arguments are left out: some gradients of torch depend on the SIMD lane then."""
    x, dy, dx, exact = special_gradients(activation, dtype)
    close = torch.isclose(dx, exact, rtol=0.01, atol=1e-6, equal_nan=True)
    close |= exact.isnan() & ~dy.isnan()  # torch's formula overflows where the limit is finite
    close |= x.isnan()
    # Zero times infinity has its own test below; in tails fp32 may underflow to zero.
    derivative = exact[:, :1]  # the upstream gradient is 1 there
    close |= ~dy.isfinite() & ~(derivative.abs() >= 1e-3)
    assert as_rows(~close, x, dy, dx, exact) == []  # rows of x, dy, dx, and the dx of torch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "relu6", "hardswish", "squared_relu"])
def test_a_derivative_of_zero_stops_infinity(capability, activation, dtype):
    """torch selects there, so that an overflow upstream of a closed ReLU goes no further."""
    x, dy, dx, exact = special_gradients(activation, dtype)
    closed = (exact == 0) & ~dy.isfinite()
    assert closed.sum() > 10
    assert (
        as_rows(closed & (dx != 0), x, dy, dx, exact) == []
    )  # rows of x, dy, dx, and the dx of torch


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "squared_relu", "relu6", "hardswish"])
def test_gradient_at_zero_is_that_of_torch(capability, activation, dtype):
    x = torch.tensor([0.0, -0.0] * 20, dtype=dtype, requires_grad=True)
    y = operator(x, p=0.0, activation=activation, training=False)
    y.sum().backward()
    other = x.detach().clone().requires_grad_()
    reference.activation(activation, other).sum().backward()
    assert torch.equal(x.grad, other.grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_gradient_takes_kept_nans_of_its_column_only(capability, dtype):
    kept = reference_mask(SHAPE, 0.4)
    dy = torch.ones(SHAPE, dtype=dtype)
    row = int(kept[:, 7].nonzero()[0])
    dy[row, 7] = torch.nan
    x = torch.ones(SHAPE, dtype=dtype)
    _, dx, dbias = gradients_of(x, torch.ones(SHAPE[1], dtype=dtype), None, dy)
    assert dbias.isnan().nonzero().tolist() == [[7]]
    assert dx.isnan().nonzero().tolist() == [[row, 7]]
