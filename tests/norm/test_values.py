"""Results and gradients of the normalised operators against the reference in fp64."""

import pytest
import torch

from tests.helpers import DTYPES
from tests.row_operators.calls import (
    CALLS,
    gradients_of,
    in_dtype,
    is_norm,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)
from tests.row_operators.values import *  # noqa: F403
from tests.row_operators.values import check_all


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_one(dtype, capability):
    """LayerNorm of one number is the bias, and passes no gradient on."""
    tensors = tensors_of("layer_norm", (5, 1), dtype)
    (y,) = ours("layer_norm", tensors)
    assert torch.equal(y, tensors["norm_bias"].expand(5, 1))
    gradients = gradients_of((y,), tensors, [torch.ones_like(y)])
    assert not gradients["x"].any() and not gradients["residual"].any()
    assert torch.equal(gradients["norm_bias"], torch.full((1,), 5.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(6, 9), (3, 768), (70, 100)], ids=str)
@pytest.mark.parametrize("name", [name for name in CALLS if is_norm(name)])
def test_residual_in_fp32(name, shape, dtype, capability):
    """A residual in fp32 stays fp32, with a branch in 16 bits."""
    tensors = tensors_of(name, shape, dtype, residual_dtype=torch.float32)
    results = ours(name, tensors)
    expected = (dtype, torch.float32) if CALLS[name]["prenorm"] else (torch.float32,)
    assert tuple(one.dtype for one in results) == expected
    check_all(name, tensors)


PAIRS = [
    (torch.float32, torch.float64),
    (torch.float16, torch.float64),
    (torch.float16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
]


@pytest.mark.parametrize("dtype, residual_dtype", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_prenorm_full", "rms_norm_prenorm"])
def test_mixed_dtypes(name, dtype, residual_dtype):
    tensors = tensors_of(name, (4, 40), dtype, residual_dtype=residual_dtype)
    results = ours(name, tensors)
    exact = theirs(name, in_dtype(tensors, torch.float64))
    wide = torch.promote_types(dtype, residual_dtype)
    assert tuple(r.dtype for r in results) == ((dtype, wide) if len(results) == 2 else (wide,))
    gradients = gradients_of(results, tensors, upstream_of(results))
    for key, gradient in gradients.items():
        assert gradient.dtype == tensors[key].dtype
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth.to(one.dtype), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("missing", ["residual", "weight", "norm_bias", "bias", "layer_scale"])
@pytest.mark.parametrize("name", ["layer_norm_full", "layer_norm_prenorm_full"])
def test_arguments_that_are_not_given(name, missing):
    tensors = tensors_of(name, (3, 50), torch.float64)
    tensors[missing] = None
    given = {key: value for key, value in tensors.items() if value is not None}
    results, exact = ours(name, tensors), theirs(name, {"residual": None, **given})
    upstream = upstream_of(results)
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth)
    found, expected = (gradients_of(r, given, upstream) for r in (results, exact))
    for key in found:
        torch.testing.assert_close(found[key], expected[key], msg=key)
