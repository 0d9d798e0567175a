"""Ranks that compute parts of one tensor, and the parts of torch.distributed.tensor."""

import itertools

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard
from torch.testing._internal.distributed.fake_pg import FakeStore

import fused_dropout as fd
from tests.shard import ranks as shard_ranks

SECONDS = 120


def test_two_processes(tmp_path):
    context = mp.spawn(shard_ranks.run, (2, str(tmp_path)), nprocs=2, join=False)
    try:
        assert any(context.join(SECONDS) for _ in range(2)), f"not done after {SECONDS} s"
    finally:
        for process in context.processes:
            process.kill()


@pytest.fixture
def as_rank():
    """Makes this process one rank of a world that does not exist."""

    def start(rank, world):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())

    yield start
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("shape", [(9, 7), (4, 6), (3, 1), (5, 0)], ids=str)
@pytest.mark.parametrize(
    "mesh_shape, placements",
    [
        ((4,), [Shard(0)]),
        ((4,), [Shard(1)]),
        ((4,), [Replicate()]),
        ((2, 2), [Shard(0), Shard(1)]),
        ((2, 2), [Shard(1), Replicate()]),
        ((2, 2), [Shard(0), Shard(0)]),
        ((2, 3), [Shard(1), Shard(1)]),
        ((3, 2), [Shard(0), Shard(0)]),
    ],
    ids=str,
)
def test_places_are_those_of_dtensor(as_rank, mesh_shape, placements, shape):
    world = torch.Size(mesh_shape).numel()
    full = torch.arange(torch.Size(shape).numel()).view(shape)
    covered = torch.zeros(shape, dtype=torch.int64)
    for rank in range(world):
        as_rank(rank, world)
        mesh = init_device_mesh("cpu", mesh_shape)
        tensor = distribute_tensor(full, mesh, placements, src_data_rank=None)
        shard = fd.Shard.from_dtensor(tensor)
        sizes, offsets = compute_local_shape_and_global_offset(full.shape, mesh, placements)
        assert shard.shape == shape
        # Where nothing lies it does not matter from where.
        if 0 not in sizes:
            assert shard.offsets == tuple(offsets)
        part = tuple(
            slice(start, start + size) for start, size in zip(shard.offsets, sizes, strict=True)
        )
        assert torch.equal(full[part], tensor.to_local())
        covered[part] += 1
    copies = world
    for mesh_dim, placement in enumerate(placements):
        copies //= mesh_shape[mesh_dim] if isinstance(placement, Shard) else 1
    assert (covered == copies).all()


def test_placements_that_are_no_place(as_rank):
    as_rank(1, 4)
    mesh = init_device_mesh("cpu", (2, 2))
    local = torch.ones(2, 4)
    for placement in (Partial(), _StridedShard(0, split_factor=2)):
        tensor = DTensor.from_local(local, mesh, [Replicate(), placement], run_check=False)
        with pytest.raises(ValueError, match=r"Shard: tensor has the placement .*, but expected"):
            fd.Shard.from_dtensor(tensor)


def test_a_rank_outside_of_the_mesh(as_rank):
    as_rank(3, 4)
    mesh = dist.DeviceMesh("cpu", [0, 1])
    tensor = DTensor.from_local(torch.ones(2, 4), mesh, [Shard(0)], run_check=False)
    with pytest.raises(ValueError, match="Shard: this rank is not in the mesh of tensor"):
        fd.Shard.from_dtensor(tensor)


def test_every_rank_of_a_mesh_by_hand():
    """Chained equal parts are those of a mesh whose dimensions split different dimensions."""
    for data, sequence in itertools.product(range(2), range(3)):
        shard = fd.Shard.of((4, 5, 6), 0, data, 2).along(1, sequence, 3)
        assert shard == fd.Shard((8, 15, 6), (4 * data, 5 * sequence, 0))
