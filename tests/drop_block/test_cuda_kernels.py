"""The CUDA kernels of DropBlock, run on the CPU by tests/cuda_emulator: see
tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

from fused_dropout import reference
from tests.cuda_emulator.shim import DropBlockKernels
from tests.drop_block.calls import SHAPES, maps
from tests.helpers import DTYPES, SEED, in_order, same_bits

pytestmark = pytest.mark.usefixtures("emulated_kernels")

P, OFFSET = 0.3, 8
STATE = (SEED, OFFSET)


def check(x, p=P, block_size=7, **options):
    """Count, mask, values of the reference, bit by bit; every element is written."""
    call = DropBlockKernels(x, p, block_size, seed=SEED, offset=OFFSET, **options)
    assert call.can_tile()
    mask = reference.drop_block_mask(x, p, block_size, STATE, **options)
    kept = call.count()
    assert kept == int(mask.sum())
    expected = reference.drop_block(x, p, block_size, STATE, **options)
    assert same_bits(call.apply(kept), expected)
    unscaled = reference.drop_block(x, p, block_size, STATE, mode="classic", **options)
    assert same_bits(call.apply(), unscaled)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference(shape, shared):
    check(maps(shape), shared_channels=shared)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 14, 13), (2, 24, 64), (1, 35, 7, 8, 9)], ids=str)
def test_dtypes_and_formats(shape, dtype):
    dims = len(shape)
    orders = [
        range(dims),
        (0, *range(2, dims), 1),
        (1, 0, *range(2, dims)),
        (*range(2, dims), 0, 1),
    ]
    for order in orders:
        check(maps(shape, dtype, order))
    for order in orders[:3]:
        check(maps(shape, dtype, order), shared_channels=True)


@pytest.mark.parametrize("block_size", [1, 3, 9, 31, 33, 35, 65, 101])
@pytest.mark.parametrize("p", [0.001, 0.3, 1.0])
def test_block_sizes(block_size, p):
    for shape in [(2, 3, 130), (2, 3, 40, 70), (1, 2, 9, 4, 37)]:
        check(maps(shape), p, block_size)
    check(maps((2, 40, 12, 11), order=(0, 2, 3, 1)), p, block_size)


@pytest.mark.parametrize("block_size", [3, 7])
def test_volumes_in_parts(block_size):
    """Cut along each of the axes."""
    check(maps((1, 1, 400000)), 0.01, block_size)  # along the only one
    check(maps((1, 2, 900, 300)), 0.01, block_size)  # the slowest of two
    check(maps((1, 1, 3, 190000)), 0.01, block_size)  # the fastest
    check(maps((1, 1, 20, 100, 130)), 0.01, block_size)  # the slowest of three
    check(maps((1, 1, 9, 700, 60)), 0.02, block_size)  # the one between
    last = (0, 2, 3, 1)
    check(maps((1, 34, 100, 90), order=last), 0.01, block_size)
    check(maps((1, 33, 12, 30, 40), order=(0, 2, 3, 4, 1)), 0.01, block_size)


def test_many_small_volumes():
    for shape in [(70, 31, 7, 7), (500, 3, 1, 5), (9, 100, 4, 4), (3000, 1, 3)]:
        check(maps(shape), 0.2, 3)


def test_everything_dropped():
    call = DropBlockKernels(maps((3, 4, 7, 7)), 1.0, seed=SEED, offset=OFFSET)
    assert call.count() == 0
    assert bool((call.apply(0) == 0).all())


def test_nothing_leaks_from_blocks():
    x = torch.full((2, 3, 14, 14), torch.nan)
    mask = reference.drop_block_mask(x, P, 7, STATE)
    y = DropBlockKernels(x, P, seed=SEED, offset=OFFSET).apply(100)
    assert torch.equal(y.isnan(), mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_pointers_that_are_not_aligned(dtype):
    memory = maps((1, 1, 6001), dtype).flatten()
    x = memory[1:5881].view(3, 10, 14, 14)
    check(x)
    out = torch.empty(5999, dtype=dtype)[3:5883].view(x.shape)
    DropBlockKernels(x, P, seed=SEED, offset=OFFSET).apply(1000, out)
    assert same_bits(
        out.contiguous(), DropBlockKernels(x.clone(), P, seed=SEED, offset=OFFSET).apply(1000)
    )


def test_what_tiles_cannot_hold():
    """Blocks that reach further than a tile can: the composition takes over."""
    assert not DropBlockKernels(in_order((1, 33, 60, 60, 60), (0, 2, 3, 4, 1)), P, 41).can_tile()
    both = in_order((40, 3, 9, 9), (2, 3, 0, 1))
    assert not DropBlockKernels(both, P, shared_channels=True).can_tile()
