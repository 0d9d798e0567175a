"""Hard cases of a normalisation after dropout: dropped rows, eps, large means, one element."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import DTYPES
from tests.row_operators.calls import (
    STATE,
    every_norm,
    gradients_of,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_fully_dropped_rows(norm, dtype, capability):
    """Their variance is zero: y is the bias, gradients are finite."""
    function = getattr(FF, f"dropout_add_{norm}_norm")
    x = torch.randn(64, 6).to(dtype).requires_grad_()
    norm_bias = torch.randn(6).to(dtype) if norm == "layer" else None
    vectors = {} if norm_bias is None else {"norm_bias": norm_bias}
    y, h = function(x, None, p=0.8, prenorm=True, rng_state=STATE, **vectors)
    dropped = ~h.bool().any(-1)
    assert 5 < dropped.sum() < 40
    expected = torch.zeros(6, dtype=dtype) if norm_bias is None else norm_bias
    assert torch.equal(y[dropped], expected.expand(int(dropped.sum()), 6))
    (dx,) = torch.autograd.grad(y, x, torch.randn(y.shape).to(dtype))
    assert dx.isfinite().all() and not dx[dropped].any()


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5, 0.1, 10.0])
@every_norm
def test_eps(name, eps, capability):
    tensors = tensors_of(name, (5, 33), torch.float64)
    results, exact = ours(name, tensors, eps=eps), theirs(name, tensors, eps=eps)
    upstream = upstream_of(results)
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth)
    expected = gradients_of(exact, tensors, upstream)
    for key, gradient in gradients_of(results, tensors, upstream).items():
        torch.testing.assert_close(gradient, expected[key], msg=key)


@pytest.mark.parametrize("width", [64, 1000, 16384])
def test_a_mean_far_from_zero(width, capability):
    """E[x^2] - E[x]^2 in fp32 would leave nothing of the variance."""
    residual = torch.randn(8, width, dtype=torch.float64) + 4096
    residual = residual.float().requires_grad_()
    y = FF.dropout_add_layer_norm(torch.zeros(8, width), residual, p=0.5)
    wide = residual.detach().double().requires_grad_()
    exact = torch.nn.functional.layer_norm(wide, (width,))
    usual = torch.nn.functional.layer_norm(residual, (width,))
    error = (y.double() - exact).abs().max()
    assert error <= 2 * (usual.double() - exact).abs().max() + 1e-6
    assert error < 1e-3
    dy = torch.randn(8, width)
    (found,) = torch.autograd.grad(y, residual, dy)
    torch.testing.assert_close(
        found.double(), torch.autograd.grad(exact, wide, dy.double())[0], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4, 1e30])
def test_constant_rows(value):
    y = FF.dropout_add_layer_norm(torch.zeros(3, 100), torch.full((3, 100), value), p=0.3)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropped_nan_and_infinity_do_not_leak(dtype, capability):
    """In forward and backward."""
    kept = FF.dropout_mask((4, 50), 0.5, STATE)
    x = torch.randn(4, 50).to(dtype)
    clean = torch.where(kept, x, 0)
    for poison in (torch.nan, torch.inf):
        dirty = torch.where(kept, x, poison).requires_grad_()
        bias = torch.zeros(50, dtype=dtype, requires_grad=True)
        for prenorm in (False, True):
            options = {"bias": bias, "p": 0.5, "rng_state": STATE, "prenorm": prenorm}
            results = FF.dropout_add_layer_norm(dirty, x, activation="gelu", **options)
            others = FF.dropout_add_layer_norm(clean, x, activation="gelu", **options)
            results, others = (r if prenorm else (r,) for r in (results, others))
            assert all(torch.equal(a, b) for a, b in zip(results, others, strict=True))
            grads = torch.autograd.grad(results, (dirty, bias), [torch.ones_like(x)] * len(results))
            assert all(g.isfinite().all() for g in grads)
            assert not grads[0][~kept].any()


def test_a_nan_that_is_kept_spoils_its_row_alone():
    x = torch.zeros(3, 10)
    x[1, 4] = torch.nan
    y = FF.dropout_add_layer_norm(x, torch.randn(3, 10), p=0.0)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


def test_a_row_scale_of_zero_leaves_the_residual():
    """Stochastic depth: the rows that are off pass the residual on."""
    x, residual = torch.randn(6, 20, requires_grad=True), torch.randn(6, 20)
    row_scale = torch.tensor([0.0, 2.0, 0.0, 2.0, 2.0, 0.0])
    y, h = FF.dropout_add_layer_norm(
        x, residual, p=0.1, prenorm=True, row_scale=row_scale, rng_state=STATE
    )
    off = row_scale == 0
    assert torch.equal(h[off], residual[off])
    branch = FF.dropout(x, 0.1, rng_state=STATE)
    torch.testing.assert_close(h[~off], residual[~off] + 2 * branch[~off])
    (dx,) = torch.autograd.grad(y, x, torch.randn(y.shape))
    assert not dx[off].any() and dx[~off].any(-1).all()
