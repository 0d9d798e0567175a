"""Feature maps for the tests of DropBlock, and the masks that calls apply to them."""

import functools

import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import in_order, state

STATE = state()

# Maps of which some are smaller than a block, some longer than a register, a window, a thread's
# share; several to a window and parts of one.
SHAPES = [
    (2, 3, 40), (3, 5, 1), (2, 2, 5000), (1, 2, 70000), (2, 5, 7, 7), (3, 4, 28, 28), (1, 1, 9, 9),
    (2, 3, 5, 17), (2, 40, 14, 13), (1, 3, 150, 90), (5, 1, 1, 30), (2, 3, 8, 9, 10),
    (1, 2, 30, 31, 33), (2, 3, 3, 12, 1), (70, 9, 4, 4), (1, 2, 400, 211),
]  # fmt: skip

# Dimensions in the order of memory, for a tensor with four of them.
ORDERS = {
    "contiguous": (0, 1, 2, 3),
    "channels_last": (0, 2, 3, 1),
    "channels_first": (1, 0, 2, 3),
    "transposed": (0, 1, 3, 2),
    "batch_last": (2, 3, 1, 0),
    "channels_before_batch_last": (1, 3, 2, 0),
    "both_last": (2, 3, 0, 1),
    "batch_between": (1, 2, 0, 3),
}


def maps(shape, dtype=torch.float32, order=None, seed=0):
    """Normal values, and the dimensions in this order in memory."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return in_order(shape, order or range(len(shape)), dtype).copy_(values)


def masks(x, p, block_size, rng_state=STATE, **options):
    """What forward keeps, and what backward does."""
    ones = torch.ones_like(x).requires_grad_()
    y = FF.drop_block(ones, p, block_size, rng_state=rng_state, **options)
    (dx,) = torch.autograd.grad(y, ones, torch.ones_like(y))
    assert y.stride() == dx.stride() == torch.empty_like(x).stride()
    return y != 0, dx != 0


def expected_mask(x, p, block_size, rng_state=STATE, *, shared_channels=False):
    layout = tuple(x.shape), torch.empty_like(x, device="meta").stride()
    return _reference_mask(*layout, p, block_size, tuple(rng_state.tolist()), shared_channels)


@functools.lru_cache(maxsize=64)
def _reference_mask(shape, strides, p, block_size, rng_state, shared_channels):
    """Computed once for many tests."""
    x = torch.empty_strided(shape, strides, dtype=torch.bool)
    return reference.drop_block_mask(x, p, block_size, rng_state, shared_channels=shared_channels)
