"""The gradients that are summed over rows: in fp32, in fixed order, of the masked gradient."""

import pytest
import torch

from tests.row_operators.calls import (
    ours,
    theirs,
)
from tests.row_operators.sums import *  # noqa: F403


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
