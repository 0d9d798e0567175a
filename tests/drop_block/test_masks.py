"""The masks of DropBlock equal the reference's: in forward and backward, in any layout."""

import itertools

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.drop_block.calls import ORDERS, SHAPES, STATE, expected_mask, maps, masks
from tests.helpers import DTYPES, in_order, state

P = 0.3


def check(x, p=P, block_size=7, **options):
    expected = expected_mask(x, p, block_size, **options)
    for found in masks(x, p, block_size, **options):
        assert torch.equal(found, expected)
    return expected


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_reference(shape, shared, capability, threads):
    check(torch.empty(shape), shared_channels=shared)


def test_many_seeds():
    """Enough of them that some draws lie on the threshold."""
    check(torch.empty(8, 64, 40, 40, dtype=torch.bfloat16), 0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 14, 13), (2, 3, 300), (1, 2, 7, 8, 9)], ids=str)
def test_dtypes(shape, dtype, capability):
    check(torch.empty(shape, dtype=dtype))


@pytest.mark.parametrize("block_size", [1, 3, 5, 9, 33, 65, 1001])
@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 1.0])
def test_block_sizes(block_size, p):
    for shape in [(2, 3, 70), (2, 3, 40, 11), (1, 2, 9, 4, 10)]:
        check(torch.empty(shape), p, block_size)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared", [False, True])
def test_orders_of_dimensions(order, shared, threads):
    for shape in [(3, 40, 12, 11), (2, 3, 9, 70), (3, 1, 8, 8), (1, 33, 4, 16)]:
        check(in_order(shape, ORDERS[order]), shared_channels=shared)


@pytest.mark.parametrize("shape", [(2, 40, 16), (2, 3, 900), (2, 35, 6, 9, 8)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_channels_last_of_other_dimensions(shape, shared):
    dims = len(shape)
    check(in_order(shape, (0, *range(2, dims), 1)), shared_channels=shared)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_every_permutation(order):
    x = in_order((3, 4, 9, 10), order)
    for one in (x, x[1:], x[:, 1:]):
        check(one, block_size=3)
        check(one, block_size=3, shared_channels=True)


def test_many_channels_last():
    """More than a window."""
    check(in_order((2, 300, 30, 20), ORDERS["channels_last"]), 0.1)


def test_layouts_of_one_mask():
    """Shared by the channels, it is the same in both formats."""
    x = torch.empty(3, 8, 10, 11)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(check(x, shared_channels=True), check(last, shared_channels=True))


@pytest.mark.parametrize("shape", [(2, 3, 28, 28), (2, 3, 50)], ids=str)
def test_views_that_are_not_dense(shape):
    """A mask as of the tensor that empty_like makes."""
    wide = torch.randn(*shape[:-1], 2 * shape[-1])
    for x in (wide[..., ::2], wide[..., : shape[-1]], wide[:, :1].expand(-1, 4, *wide.shape[2:])):
        expected = reference.drop_block_mask(x, P, 5, STATE)
        y = FF.drop_block(x, P, 5, rng_state=STATE)
        assert torch.equal(y != 0, expected)
        assert y.stride() == torch.empty_like(x).stride()


def test_gradients_in_another_layout():
    x = maps((2, 5, 12, 12)).requires_grad_()
    y = FF.drop_block(x, P, 5, rng_state=STATE)
    dy = torch.ones_like(y).to(memory_format=torch.channels_last)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx != 0, expected_mask(x, P, 5))
    assert dx.stride() == x.stride()
    (dx,) = torch.autograd.grad(
        FF.drop_block(x, P, 5, rng_state=STATE), x, torch.ones(()).expand_as(x)
    )
    assert torch.equal(dx != 0, expected_mask(x, P, 5))


def test_seeds_of_all_bits_and_offsets():
    for seed, offset in [(0, 0), (-1, 4), (2**63 - 1, 2**40), (-(2**63), 2**62)]:
        rng_state = state(seed, offset)
        x = torch.empty(3, 4, 14, 14)
        expected = expected_mask(x, P, 7, rng_state)
        assert torch.equal(masks(x, P, 7, rng_state)[0], expected)


def test_every_call_draws_another_mask():
    x = torch.ones(2, 3, 28, 28)
    torch.manual_seed(3)
    first, second = FF.drop_block(x), FF.drop_block(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    rng_state = fd.new_rng_state()
    assert torch.equal(first, FF.drop_block(x, rng_state=rng_state))
    torch.manual_seed(3)
    assert torch.equal(first, FF.drop_block(x))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    one, other = (FF.drop_block(x, generator=generator) for generator in generators)
    assert torch.equal(one, other)


def test_channels_and_examples_are_independent():
    kept = masks(torch.empty(12, 400, 14, 14), P, 7)[0].double()
    kept = kept - kept.mean((0, 1))  # what lies at an edge is dropped less often
    for dim, size in ((0, 12), (1, 400)):
        positions = kept.transpose(0, dim).reshape(size, -1)[:40]
        correlation = torch.corrcoef(positions) - torch.eye(len(positions))
        blocks = positions.shape[1] / 49
        assert correlation.abs().max() < 5 / blocks**0.5


def test_whole_blocks():
    """Every dropped element lies in a fully dropped block inside the map."""
    kept = masks(torch.empty(8, 8, 20, 20), 0.1, 5)[0].float()
    dropped = 1 - kept
    full = torch.nn.functional.avg_pool2d(dropped, 5, stride=1) == 1
    reached = torch.nn.functional.pad(full.float(), (4, 4, 4, 4))
    reached = torch.nn.functional.max_pool2d(reached, 5, stride=1)
    assert torch.equal(reached, dropped)
