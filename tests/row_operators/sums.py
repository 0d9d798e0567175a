"""The gradients that are summed over rows: in fp32, in fixed order, of the masked gradient.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import pytest
import torch

from tests.helpers import ulp
from tests.row_operators.calls import (
    gradients_of,
    in_dtype,
    ours,
    tensors_of,
    theirs,
    unfused,
    upstream_of,
)

# Rows around the steps of 32 and the parts of 64; narrow and wide ones.
SHAPES = [(1, 33), (3, 8191), (31, 7), (32, 64), (65, 100), (300, 65), (4096, 31), (2000, 513)]


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums(name, shape, p):
    tensors = tensors_of(name, shape)
    results = ours(name, tensors, p=p)
    upstream = upstream_of(results)
    wide = in_dtype(tensors, torch.float64)
    found = gradients_of(results, tensors, upstream)
    exact = gradients_of(theirs(name, wide, p=p), wide, upstream)
    usual = gradients_of(unfused(name, tensors, p=p), tensors, upstream)
    for key in set(found) - {"x", "residual"}:
        error = (found[key].double() - exact[key]).abs().max()
        other = (usual[key].double() - exact[key]).abs().max()
        size = exact[key].abs().max().clamp(min=shape[0] ** 0.5)
        assert error <= 2 * other + 4 * ulp(size, torch.float32), (key, error, other)


def test_many_rows_in_bfloat16(example):
    """65,536 rows: a sum in 16 bits would stop growing at 256."""
    shape = (65536, 24)
    tensors = tensors_of(example, shape, torch.bfloat16)
    results = ours(example, tensors, p=0.1)
    upstream = upstream_of(results)
    wide = in_dtype(tensors, torch.float64)
    found = gradients_of(results, tensors, upstream)
    exact = gradients_of(theirs(example, wide, p=0.1), wide, upstream)
    for key in set(found) - {"x", "residual"}:
        scale = exact[key].abs().max()
        error = (found[key].double() - exact[key]).abs().max() / scale
        # One rounding at the end; with prenorm also those of h, which average out.
        assert error <= 2**-8, (key, error)


def test_the_same_bits_on_every_run(name, threads):
    tensors = tensors_of(name, (1000, 130))
    results = ours(name, tensors)
    upstream = upstream_of(results)
    first = gradients_of(results, tensors, upstream)
    for _ in range(3):
        again = gradients_of(results, tensors, upstream)
        assert all(torch.equal(first[key], again[key]) for key in first)
