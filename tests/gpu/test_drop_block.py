"""DropBlock on the device against the reference, bit by bit, and against the CPU kernels."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.drop_block.calls import ORDERS, SHAPES, maps
from tests.gpu.on_device import DEVICE, STATE, there
from tests.helpers import DTYPES, same_bits

P = 0.2


def check(x, p=P, block_size=7, **options):
    """Values and gradients; the dtypes' rounding is the same everywhere."""
    moved = there(x).requires_grad_()
    state = STATE.to(DEVICE)
    y = FF.drop_block(moved, p, block_size, rng_state=state, **options)
    assert y.stride() == torch.empty_like(x).stride()
    expected = reference.drop_block(x, p, block_size, STATE, **options)
    assert same_bits(y.detach().cpu(), expected)
    dy = maps(x.shape, x.dtype, seed=2)
    (dx,) = torch.autograd.grad(y, moved, there(dy))
    here = x.detach().requires_grad_()
    y = FF.drop_block(here, p, block_size, rng_state=STATE, **options)
    (other,) = torch.autograd.grad(y, here, dy)
    assert same_bits(dx.cpu(), other)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, shared):
    check(maps(shape), shared_channels=shared)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shared", [False, True])
def test_orders_of_dimensions(order, shared, dtype):
    """Those without tiles take the composition."""
    check(maps((3, 40, 14, 13), dtype, ORDERS[order]), shared_channels=shared)


@pytest.mark.parametrize("block_size", [1, 3, 33, 65, 1001])
def test_block_sizes(block_size):
    for shape in [(2, 3, 3000), (2, 3, 90, 70), (1, 2, 40, 40, 40)]:
        check(maps(shape), block_size=block_size)


def test_many():
    """More tiles than resident thread blocks; the count is the same on every run."""
    x = torch.ones(64, 256, 56, 56, dtype=torch.bfloat16, device=DEVICE)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=memory_format)
        state = STATE.to(DEVICE)
        arguments = (x, state, 0.1, None, 7, False)
        first, second = (torch.ops.fused_dropout.drop_block_kept(*arguments) for _ in range(2))
        y = FF.drop_block(x, 0.1, rng_state=state)
        assert first == second == (y != 0).sum()
        rate = FF.drop_block_rate((56, 56), 0.1, 7)
        assert abs(1 - int(first) / x.numel() - rate) < 5e-4


def test_drawing():
    block, x = fd.DropBlock2d(P), torch.ones(2, 3, 28, 28, device=DEVICE)
    torch.manual_seed(1)
    first, second = block(x), block(x)
    torch.manual_seed(1)
    assert torch.equal(first, block(x)) and not torch.equal(first, second)
    assert block.eval()(x) is x
