"""The gradients that are summed over rows: in fp32, in fixed order, of the masked gradient."""

import pytest
import torch

from tests.helpers import ulp
from tests.row_calls import (
    STATE,
    chain,
    every_call,
    gradients_of,
    in_dtype,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

# Rows around the steps of 32 and the parts of 64; narrow and wide ones.
SHAPES = [(1, 33), (3, 8191), (31, 7), (32, 64), (65, 100), (300, 65), (4096, 31), (2000, 513)]


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_sums(name, shape, p):
    tensors = tensors_of(name, shape)
    results = ours(name, tensors, p=p)
    upstream = upstream_of(results)
    wide = in_dtype(tensors, torch.float64)
    found = gradients_of(results, tensors, upstream)
    exact = gradients_of(theirs(name, wide, p=p), wide, upstream)
    usual = gradients_of(chain(name, tensors, p=p), tensors, upstream)
    for key in set(found) - {"x", "residual"}:
        error = (found[key].double() - exact[key]).abs().max()
        other = (usual[key].double() - exact[key]).abs().max()
        size = exact[key].abs().max().clamp(min=shape[0] ** 0.5)
        assert error <= 2 * other + 4 * ulp(size, torch.float32), (key, error, other)


@pytest.mark.parametrize("name", ["layer_norm_full", "layer_norm_prenorm_full", "swiglu"])
def test_many_rows_in_bfloat16(name):
    """65,536 rows: a sum in 16 bits would stop growing at 256."""
    shape = (65536, 24)
    tensors = tensors_of(name, shape, torch.bfloat16)
    results = ours(name, tensors, p=0.1)
    upstream = upstream_of(results)
    wide = in_dtype(tensors, torch.float64)
    found = gradients_of(results, tensors, upstream)
    exact = gradients_of(theirs(name, wide, p=0.1), wide, upstream)
    for key in set(found) - {"x", "residual"}:
        scale = exact[key].abs().max()
        error = (found[key].double() - exact[key]).abs().max() / scale
        # One rounding at the end; with prenorm also those of h, which average out.
        assert error <= 2**-8, (key, error)


@every_call
def test_the_same_bits_on_every_run(name, threads):
    tensors = tensors_of(name, (1000, 130))
    results = ours(name, tensors)
    upstream = upstream_of(results)
    first = gradients_of(results, tensors, upstream)
    for _ in range(3):
        again = gradients_of(results, tensors, upstream)
        assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.parametrize("width", [4096, 4097, 20000])
def test_few_wide_rows_of_a_gated_call(width, threads):
    """Cut along the columns, too."""
    x = torch.randn(3, 2 * width, requires_grad=True)
    bias = torch.randn(2 * width, requires_grad=True)
    y = ours("swiglu", {"x": x, "bias": bias})[0]
    expected = theirs("swiglu", {"x": x, "bias": bias})[0]
    torch.testing.assert_close(y, expected)
    dy = torch.randn(y.shape)
    for one, other in zip(
        torch.autograd.grad(y, (x, bias), dy),
        torch.autograd.grad(expected, (x, bias), dy),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_only_kept_gradients_are_summed():
    """The bias gradient of ones is the count of what is kept, times the scale."""
    import fused_dropout.functional as FF

    rows, width = 500, 40
    bias = torch.zeros(width, requires_grad=True)
    x = torch.zeros(rows, width)
    _y, h = FF.dropout_add_layer_norm(
        x, None, torch.zeros(width), bias=bias, p=0.25, prenorm=True, rng_state=STATE
    )
    (dbias,) = torch.autograd.grad(h, bias, torch.ones_like(h))
    kept = FF.dropout_mask((rows, width), 0.25, STATE)
    torch.testing.assert_close(dbias, kept.sum(0) / 0.75)
