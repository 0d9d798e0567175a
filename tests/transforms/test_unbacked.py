"""Unbacked sizes, which depend on data: no graph breaks."""

import pytest
import torch
import torch._dynamo

from tests.every_function import BATCHED, CALLS, STATE, assert_close, run, tensors_of


@pytest.fixture(autouse=True)
def captured():
    torch.compiler.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield


def chosen(name, tensors, which):
    """The rows of the batch that are chosen."""
    return {
        key: value[which] if key in CALLS[name].batched else value for key, value in tensors.items()
    }


def gradient(tensor):
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@pytest.mark.parametrize(
    "name, options",
    [*((name, {}) for name in BATCHED), *((name, {"rng_state": STATE}) for name in BATCHED[:2])],
)
def test_forward_and_backward(name, options):
    """With states that are drawn, and that are given, for which the sizes do not matter."""

    def loss(tensors, which):
        results = run(name, chosen(name, tensors, which), **options)
        return sum(one.sin().sum() for one in results)

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for which in ([True, False, True, True], [False] * 4):
        tensors, twins = tensors_of(name), tensors_of(name)
        which = torch.tensor(which)
        torch.manual_seed(0)
        ours = compiled(tensors, which)
        torch.manual_seed(0)
        theirs = loss(twins, which)
        torch.testing.assert_close(ours, theirs)
        ours.backward()
        theirs.backward()
        # Eager calls on nothing return their input, so that other tensors get no gradient at all.
        assert_close(map(gradient, tensors.values()), map(gradient, twins.values()))
