"""The masks of the gated operators: in forward and backward, in any layout."""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import DTYPES
from tests.row_operators.calls import (
    STATE,
)
from tests.row_operators.masks import *  # noqa: F403
from tests.row_operators.masks import SHAPES, P, layouts


def glu_masks(x, p=P, rng_state=STATE, **options):
    """What forward keeps, and what backward does; `x` has the shape of the result."""
    both = torch.cat((x, x), -1).fill_(1).requires_grad_()
    y = FF.bias_glu_dropout(both, None, p, "identity", rng_state=rng_state, **options)
    (dx,) = torch.autograd.grad(y, both, torch.ones_like(y))
    gate, value = dx.chunk(2, -1)
    assert torch.equal(gate, value)
    return y != 0, gate != 0


@pytest.mark.parametrize("index", range(26))
def test_layouts(index, capability):
    x = next(iter(itertools.islice(layouts((3, 4, 5, 6)), index, index + 1)))
    x = x.detach().normal_().requires_grad_()
    bias = torch.randn(6)
    y = FF.bias_glu_dropout(x, bias, P, rng_state=STATE)
    expected = reference.bias_glu_dropout(x, bias, P, "silu", STATE)
    torch.testing.assert_close(y, expected)
    order = reference.memory_order(x)
    assert sorted(range(4), key=lambda dim: -y.stride(dim)) == list(order)
    like = torch.empty_like(x).chunk(2, -1)[0]
    assert y.stride() == torch.empty_like(like).stride()
    dy = torch.randn(y.shape)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(dx, torch.autograd.grad(expected, x, dy)[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_contract(shape, capability, threads):
    expected = reference.dropout_mask(shape, P, STATE)
    for dtype in DTYPES:
        for found in glu_masks(torch.empty(shape, dtype=dtype)):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(1000, 1100), (30, 40000), (50000, 24)], ids=str)
def test_many_elements(shape):
    """Enough of them that some draws lie on the threshold, and that a period would show."""
    expected = reference.dropout_mask(shape, P, STATE)
    for found in glu_masks(torch.empty(shape)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_shared_dimensions(shared, capability):
    x = torch.empty(5, 6, 70)
    expected = reference.dropout_mask(x.shape, P, STATE, shared_dims=shared)
    noise_shape = tuple(1 if dim in shared else None for dim in range(3))
    for options in ({"shared_dims": shared}, {"noise_shape": noise_shape}):
        for found in glu_masks(x, **options):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("offset", [0, 5, 8, 2**35 + 3])
def test_mask_strides_and_offset(offset):
    """Only the operators take them."""
    index = offset + torch.arange(3)[:, None] * 40 + torch.arange(20)
    expected = reference.draws(index.flatten(), STATE).view(3, 20) < reference.keep_count(P)
    options = [P, None, "identity", None, None, "inverted", True, [], [40, 1], offset]
    y = torch.ops.fused_dropout.bias_glu_dropout(torch.ones(3, 40), None, STATE, True, *options)
    assert torch.equal(y != 0, expected)
