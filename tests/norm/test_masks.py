"""The masks of the normalised operators: in forward and backward, in any layout."""

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


def norm_masks(x, prenorm, p=P, rng_state=STATE, **options):
    """What forward keeps, seen in h, and what backward does, seen in dx.

    The gradient by h is 1, but for what comes through the normalisation, which a zero weight stops.
    """
    x = torch.ones_like(x).requires_grad_()
    weight = torch.zeros(x.shape[-1], dtype=x.dtype)
    residual = torch.zeros_like(x)
    y, h = FF.dropout_add_layer_norm(
        x, residual, weight, p=p, prenorm=True, rng_state=rng_state, **options
    )
    if prenorm:
        (dx,) = torch.autograd.grad((y, h), x, (torch.ones_like(y), torch.ones_like(h)))
        return h != 0, dx != 0
    # After the norm: a branch of rows that differ from each other, and a random upstream gradient.
    ones = torch.ones_like(x).requires_grad_()
    y = FF.dropout_add_layer_norm(
        ones, torch.randn(x.shape).to(x.dtype), p=p, rng_state=rng_state, **options
    )
    generator = torch.Generator().manual_seed(3)
    dy = torch.randn(y.shape, generator=generator).to(y.dtype)
    (dx,) = torch.autograd.grad(y, ones, dy)
    return h != 0, dx != 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_contract(shape, capability, threads):
    expected = reference.dropout_mask(shape, P, STATE)
    for dtype in DTYPES:
        x = torch.empty(shape, dtype=dtype)
        for found in norm_masks(x, prenorm=True):
            assert torch.equal(found, expected)
        if shape[-1] > 2:  # rows of one or two have no gradient to see
            forward, backward = norm_masks(x, prenorm=False)
            assert torch.equal(forward, expected)
            # A gradient may be zero by itself, where 16 bits round.
            assert not (backward & ~expected).any()
            assert (backward == expected).double().mean() > 0.99


@pytest.mark.parametrize("shape", [(1000, 1100), (30, 40000), (50000, 24)], ids=str)
def test_many_elements(shape):
    """Enough of them that some draws lie on the threshold, and that a period would show."""
    expected = reference.dropout_mask(shape, P, STATE)
    x = torch.empty(shape)
    for found in norm_masks(x, prenorm=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_shared_dimensions(shared, capability):
    x = torch.empty(5, 6, 70)
    expected = reference.dropout_mask(x.shape, P, STATE, shared_dims=shared)
    noise_shape = tuple(1 if dim in shared else None for dim in range(3))
    for options in ({"shared_dims": shared}, {"noise_shape": noise_shape}):
        for found in norm_masks(x, prenorm=True, **options):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("index", range(26))
def test_layouts(index, capability):
    """The mask and the strides are those of dropout alone."""
    x = next(iter(itertools.islice(layouts((3, 4, 5, 6)), index, index + 1)))
    expected = reference.dropout_mask(x.shape, P, STATE, like=x)
    forward, backward = norm_masks(x, prenorm=True)
    assert torch.equal(forward, expected)
    assert torch.equal(backward, expected)
    values = x.detach().normal_().requires_grad_()
    y, h = FF.dropout_add_layer_norm(values, None, p=P, prenorm=True, rng_state=STATE)
    assert y.stride() == h.stride() == torch.empty_like(x).stride()
    plain = FF.dropout(values, P, rng_state=STATE)
    assert torch.equal(h, plain)
    torch.testing.assert_close(y, torch.nn.functional.layer_norm(plain, (6,)))
    (dx,) = torch.autograd.grad((y, h), values, (torch.ones_like(y), torch.ones_like(h)))
    assert dx.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("offset", [0, 5, 8, 2**35 + 3])
def test_mask_strides_and_offset(offset):
    """Only the operators take them."""
    x, strides = torch.ones(3, 20), [40, 1]
    index = offset + torch.arange(3)[:, None] * 40 + torch.arange(20)
    expected = reference.draws(index.flatten(), STATE).view(3, 20) < reference.keep_count(P)
    options = [P, None, "identity", None, None, "inverted", True, [], strides, offset]
    _, h, _ = torch.ops.fused_dropout.dropout_add_norm(
        x, None, None, None, None, None, None, STATE, "rms_norm", 1e-5, True, *options
    )
    assert torch.equal(h != 0, expected)
