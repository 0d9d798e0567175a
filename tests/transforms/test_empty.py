"""Batches without rows, on every path of a call."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.every_function import CALLS, every_batched_call, run, tensors_of
from tests.module_helpers import drawing_nothing

every_way = pytest.mark.parametrize("way", ["eager", "grad", "vmap", "jvp", "double backward"])


def total(results):
    return sum(one.sum() for one in results)


def by_way(way, name, tensors):
    """The shapes of what comes of a call."""
    values = {key: value.detach() for key, value in tensors.items()}
    if way == "eager":
        total(run(name, tensors)).backward()
        return [one.grad for one in tensors.values() if one.grad is not None]
    if way == "grad":
        return torch.func.grad(lambda t: total(run(name, t)))(values).values()
    if way == "vmap":
        batched = {key: 0 if key in CALLS[name].batched else None for key in values}
        stacked = {
            key: torch.stack([value] * 2) if batched[key] == 0 else value
            for key, value in values.items()
        }
        mapped = torch.func.vmap(
            lambda t: run(name, t), in_dims=(batched,), randomness="different"
        )(stacked)
        return [one[0] for one in mapped]
    if way == "jvp":
        tangents = {key: torch.ones_like(value) for key, value in values.items()}
        return torch.func.jvp(lambda t: run(name, t), (values,), (tangents,))[1]
    leaves = list(tensors.values())
    first = torch.autograd.grad(
        total(run(name, tensors)), leaves, create_graph=True, allow_unused=True
    )
    first = [one for one in first if one is not None and one.requires_grad]
    if not first:  # linear
        return []
    return [
        one
        for one in torch.autograd.grad(total(first), leaves, allow_unused=True)
        if one is not None
    ]


@every_way
@every_batched_call
def test_a_batch_of_no_rows(name, way):
    tensors = tensors_of(name, rows=0)
    shapes = {tuple(one.shape) for one in tensors.values()}
    with drawing_nothing():
        results = run(name, tensors)
    shapes |= {tuple(one.shape) for one in results}
    for one in by_way(way, name, tensors):
        assert tuple(one.shape) in shapes
        assert one.isfinite().all()


def test_an_empty_standout_draws_nothing_when_compiled():
    x = torch.empty(0, 4)
    call = torch.compile(FF.standout, backend="aot_eager", fullgraph=True)
    with drawing_nothing():
        assert call(x, x).shape == x.shape
