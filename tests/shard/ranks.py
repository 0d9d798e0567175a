"""The program of the processes of test_processes.py; each asserts its part."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

import fused_dropout as fd
import fused_dropout.functional as FF

SHAPE = (4, 7, 6)
P = 0.4


def run(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=60),
    )
    try:
        torch.manual_seed(100 + rank)  # what ranks draw by themselves differs
        sequence_parallel(rank, world)
        equally_seeded(rank, world)
        for dim in range(3):
            of_dtensors(world, dim)
    finally:
        dist.destroy_process_group()


def shared_state():
    state = fd.new_rng_state()
    dist.broadcast(state, 0)
    return state


def the_same_everywhere(*shape):
    """Random numbers; every rank can compute the result of the full tensor."""
    tensor = torch.randn(shape)
    dist.broadcast(tensor, 0)
    return tensor


def sequence_parallel(rank, world):
    """Equal parts of the sequence: gathered outputs, gradients, and the sum of the bias's."""
    x = the_same_everywhere(4, 3 * world, 6)
    residual, bias = the_same_everywhere(4, 3 * world, 6), the_same_everywhere(6)
    dy, state = the_same_everywhere(4, 3 * world, 6), shared_state()

    def gradients(x, residual, dy, shard):
        x, own_bias = x.clone().requires_grad_(), bias.clone().requires_grad_()
        y = FF.bias_dropout_add(x, own_bias, residual, P, rng_state=state, shard=shard)
        y.backward(dy)
        return y.detach(), x.grad, own_bias.grad

    full = gradients(x, residual, dy, None)
    mine = [one.chunk(world, 1)[rank] for one in (x, residual, dy)]
    y, dx, dbias = gradients(*mine, fd.Shard.of(mine[0], 1, rank, world))
    for part, expected in ((y, full[0]), (dx, full[1])):
        parts = [torch.empty_like(part) for _ in range(world)]
        dist.all_gather(parts, part)
        assert torch.equal(torch.cat(parts, 1), expected)
    dist.all_reduce(dbias)
    torch.testing.assert_close(dbias, full[2])


def equally_seeded(rank, world):
    """Generators in step give a new state for each call without a message."""
    x = the_same_everywhere(2 * world, 6)
    generator = torch.Generator().manual_seed(5)
    full = [FF.dropout(x, P, generator=generator) for _ in range(3)]
    assert not torch.equal(full[0] != 0, full[1] != 0)
    generator.manual_seed(5)
    own = x.chunk(world)[rank]
    shard = fd.Shard.of(own, 0, rank, world)
    for y in full:
        part = FF.dropout(own, P, generator=generator, shard=shard)
        assert torch.equal(part, y.chunk(world)[rank])


def of_dtensors(world, dim):
    """Uneven parts, as DTensor makes them."""
    mesh = init_device_mesh("cpu", (world,))
    x, state = the_same_everywhere(*SHAPE), shared_state()
    full = FF.dropout(x, P, rng_state=state)
    split = distribute_tensor(x, mesh, [Shard(dim)])
    shard = fd.Shard.from_dtensor(split)
    _, offsets = compute_local_shape_and_global_offset(SHAPE, mesh, [Shard(dim)])
    assert shard == fd.Shard(SHAPE, offsets)
    local = FF.dropout(split.to_local(), P, rng_state=state, shard=shard)
    y = DTensor.from_local(
        local, mesh, [Shard(dim)], shape=split.shape, stride=split.stride(), run_check=False
    )
    assert torch.equal(y.full_tensor(), full)
