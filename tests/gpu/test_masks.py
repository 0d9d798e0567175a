"""The mask on the device is the contract's, bit for bit, forward and backward."""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.gpu.on_device import DEVICE, STATE, there
from tests.helpers import (
    DTYPES,
    ORDERS,
    backward_mask,
    forward_mask,
    in_order,
    reference_mask,
    state,
)

# Columns of one and of several thread blocks, rows that start within a group of eight, tails, a
# single element, many more rows than columns and the other way round.
SHAPES = [
    (1, 1), (3, 5), (8, 64), (7, 31), (33, 40), (3, 8191), (70, 1000), (65, 1001), (2049, 3),
    (1100, 1), (300, 256), (2, 70001), (1024, 4096),
]  # fmt: skip


def both_masks(x, p=0.5, rng_state=STATE, **options):
    """Of forward and of backward, on the CPU."""
    rng_state = rng_state.to(DEVICE)
    masks = (mask(x, rng_state, p, **options) for mask in (forward_mask, backward_mask))
    return [mask.cpu() for mask in masks]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [0.003, 0.1, 0.5, 0.999])
def test_of_every_size(shape, p, dtype):
    expected = reference_mask(shape, p)
    for mask in both_masks(torch.empty(shape, dtype=dtype, device=DEVICE), p):
        assert torch.equal(mask, expected)
    assert torch.equal(FF.dropout_mask(shape, p, STATE.to(DEVICE)).cpu(), expected)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31, 2**32 + 5, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("offset", [0, 4, 2**32, 2**34 + 8, 2**62])
def test_of_every_state(seed, offset):
    x = torch.empty(37, 72, device=DEVICE)
    expected = reference.dropout_mask(x.shape, 0.4, (seed, offset))
    for mask in both_masks(x, 0.4, state(seed, offset)):
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [1, 3, 8, 2**33 - 5, 2**35 + 16, 2**40])
def test_far_into_a_tensor(first, dtype):
    x = torch.empty(40, 72, dtype=dtype)
    expected = forward_mask(x, STATE, 0.4, mask_offset=first)
    for mask in both_masks(there(x), 0.4, mask_offset=first):
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("shape", [(4, 6, 16, 8), (3, 5, 7, 9), (2, 3, 8, 8)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "shared", [dims for n in range(4) for dims in itertools.combinations(range(4), n)]
)
def test_of_shared_dimensions_and_layouts(shape, order, shared):
    x = in_order(shape, ORDERS[order])
    expected = reference.dropout_mask(shape, 0.5, STATE, like=x, shared_dims=shared)
    for mask in both_masks(there(x), shared_dims=shared):
        assert torch.equal(mask, expected)
    mask = FF.dropout_mask(shape, 0.5, STATE.to(DEVICE), like=there(x), shared_dims=shared)
    assert torch.equal(mask.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [1, 3, 7])
def test_of_unaligned_views(shift, dtype):
    storage = torch.empty(19 * 40 + 8, dtype=dtype, device=DEVICE)
    x = storage[shift : shift + 19 * 40].view(19, 40)
    y = FF.dropout(x.fill_(1), 0.3, inplace=True, rng_state=STATE.to(DEVICE))
    assert torch.equal((y != 0).cpu(), reference_mask((19, 40), 0.3))


def test_of_slices():
    x = torch.empty(20, 30, 40, device=DEVICE)[1:, ::2, 3:]
    expected = reference.dropout_mask(x.shape, 0.5, STATE)
    for mask in both_masks(x):
        assert torch.equal(mask, expected)


def test_dropped_values_do_not_leak():
    shape = (64, 136)
    kept = reference_mask(shape, 0.5)
    x = torch.full(shape, torch.nan, device=DEVICE, requires_grad=True)
    y = FF.bias_act_dropout(x, None, 0.5, "gelu", rng_state=STATE.to(DEVICE))
    y.backward(torch.full_like(y, torch.inf))
    assert torch.equal(y.isnan().cpu(), kept)
    assert bool((x.grad.cpu()[~kept] == 0).all())
