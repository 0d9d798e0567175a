"""The values of kept elements, and calls that change nothing."""

import pytest
import torch
import torch.nn.functional as F

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.drop_block.calls import ORDERS, SHAPES, STATE, expected_mask, maps
from tests.helpers import DTYPES, in_order, same_bits, thread_count
from tests.module_helpers import drawing_nothing

P = 0.2


def check(x, p=P, block_size=7, **options):
    """Results and gradients are the reference's in the last bit: one product, rounded once."""
    x = x.detach().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(x.shape, generator=generator).to(x.dtype)
    y = FF.drop_block(x, p, block_size, rng_state=STATE, **options)
    other = reference.drop_block(x, p, block_size, STATE, **options)
    assert y.dtype == x.dtype
    assert same_bits(y.detach(), other.detach())
    found, expected = (torch.autograd.grad(one, x, dy)[0] for one in (y, other))
    assert same_bits(found, expected)


@pytest.mark.parametrize("mode", ["inverted", "classic"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES[:8] + SHAPES[11:12], ids=str)
def test_the_reference(shape, dtype, mode, capability):
    check(maps(shape, dtype), mode=mode)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared", [False, True])
def test_orders_of_dimensions(order, shared, dtype):
    check(maps((3, 20, 13, 11), dtype, ORDERS[order]), shared_channels=shared)
    check(maps((2, 3, 9, 9), dtype, ORDERS[order]), shared_channels=shared)


def test_threads():
    """Two of them make what one does."""
    for shape in [(4, 3, 400, 300), (1, 1, 200000), (3, 200, 28, 28), (1, 2, 40, 50, 60)]:
        x = maps(shape)
        results = []
        for count in (1, 2, 3):
            with thread_count(count):
                results.append(FF.drop_block(x, P, rng_state=STATE))
        assert same_bits(results[0], results[1]) and same_bits(results[0], results[2])


@pytest.mark.parametrize("block_size", [1, 3, 7])
@pytest.mark.parametrize("shape", [(4, 6, 20, 15), (4, 6, 50), (2, 3, 8, 9, 10)], ids=str)
def test_the_algorithm_of_other_libraries(shape, block_size):
    """Seeds, dilated by pooling, and one scale for the full tensor."""
    x = maps(shape)
    sizes = shape[2:]
    grid = [min(size, size - block_size + 1) for size in sizes]
    index = reference.mask_index((*shape[:2], *grid))
    count = reference.drop_block_keep_count(sizes, P, block_size)
    seeds = (reference.draws(index, STATE) >= count).float()
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(sizes)]
    padded = F.pad(seeds, (block_size - 1,) * (2 * len(sizes)))
    kept = 1 - pool(padded, block_size, stride=1)
    expected = x * kept * (kept.numel() / kept.sum())
    torch.testing.assert_close(FF.drop_block(x, P, block_size, rng_state=STATE), expected)


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_nothing_leaks_from_blocks(mode, capability):
    for dtype in DTYPES:
        for value in (torch.nan, torch.inf, -torch.inf):
            x = maps((2, 3, 14, 14), dtype).requires_grad_()
            kept = expected_mask(x, P, 7)
            bad = torch.where(kept, x.detach(), value).requires_grad_()
            y = FF.drop_block(bad, P, mode=mode, rng_state=STATE)
            assert torch.equal(y, FF.drop_block(x, P, mode=mode, rng_state=STATE))
            dy = torch.where(kept, torch.ones_like(y), value)
            (dx,) = torch.autograd.grad(y, bad, dy)
            assert bool(dx.isfinite().all()) and bool((dx[~kept] == 0).all())


@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (2, 3, 5), (1, 2, 2, 1, 3)], ids=str)
def test_everything_dropped(shape, capability):
    """Where one block is the map and p is 1: zeros, and no division by zero."""
    for mode in ("inverted", "classic"):
        x = maps(shape).requires_grad_()
        y = FF.drop_block(x, 1.0, 7, mode=mode, rng_state=STATE)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert bool((y == 0).all()) and bool((dx == 0).all())


def test_nothing_to_do_returns_x():
    x, empty = maps((2, 3, 9, 9)), torch.empty(2, 0, 9, 9)
    with drawing_nothing():
        for mode in ("inverted", "classic"):
            assert FF.drop_block(x, 0.0, mode=mode) is x
            assert FF.drop_block(empty, 0.3, mode=mode) is empty
            assert FF.drop_block(torch.empty(2, 3, 0), 0.3, mode=mode).shape == (2, 3, 0)
        assert FF.drop_block(x, 0.3, training=False) is x
        assert FF.drop_block(x, 1.0, training=False, rng_state=STATE) is x
        FF.drop_block(x, 0.3, training=False, mode="classic")
        FF.drop_block(x, 0.3, rng_state=STATE)


def test_a_probability_that_rounds_to_nothing():
    """gamma below half a step."""
    x = maps((2, 3, 28, 28))
    assert reference.drop_block_keep_count((28, 28), 1e-4, 7) == 65536
    y = FF.drop_block(x, 1e-4)
    assert torch.equal(y, x) and y is not x


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_classic_evaluation(dtype):
    for x in (maps((2, 3, 9, 9), dtype), maps((2, 3, 9, 9), dtype, ORDERS["channels_last"])):
        x.requires_grad_()
        y = FF.drop_block(x, 0.3, 5, training=False, mode="classic")
        expected = reference.drop_block(x, 0.3, 5, None, training=False, mode="classic")
        torch.testing.assert_close(y, expected)
        assert y.stride() == x.stride()
        (dx,) = torch.autograd.grad(y.sum(), x)
        rate = 1 - reference.drop_block_rate((9, 9), 0.3, 5)
        torch.testing.assert_close(dx, torch.full_like(dx, rate))


def test_pointers_that_are_not_aligned():
    for dtype in DTYPES:
        memory = maps((1, 1, 3001), dtype).flatten()
        x = memory[1:2941].view(3, 5, 14, 14)
        assert torch.equal(
            FF.drop_block(x, P, rng_state=STATE), FF.drop_block(x.clone(), P, rng_state=STATE)
        )


def test_large_outputs():
    """Stored past the cache."""
    x = in_order((40, 256, 30, 31), range(4)).fill_(1)
    y = FF.drop_block(x, 0.1, rng_state=STATE)
    kept = int((y != 0).sum())
    assert same_bits(y[y != 0].unique(), torch.tensor([x.numel() / kept]))
    one = FF.drop_block(x[:1].clone(), 0.1, mode="classic", rng_state=STATE)
    assert torch.equal(one != 0, y[:1] != 0)
