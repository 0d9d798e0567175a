"""Many gradients or many states at once: torch.autograd's batched gradients, and vmap."""

import math

import pytest
import torch

from fused_dropout import _vmap
from tests.every_function import (
    STATE,
    assert_close,
    every_call,
    gradients_of,
    run,
    tensors_of,
    upstream_of,
)
from tests.module_helpers import fixed_state

STATES = torch.stack([fixed_state(seed) for seed in (1, 2, 3)])
quiet = pytest.mark.filterwarnings("ignore:There is a performance drop")


@pytest.fixture(params=["kernels", "compositions"], autouse=True)
def way(request, monkeypatch):
    """Whether examples with their own states are calls of kernels depends on sizes alone."""
    monkeypatch.setattr(_vmap, "_FEW", 32 if request.param == "kernels" else 0)
    monkeypatch.setattr(_vmap, "_LARGE", math.inf)


@quiet
@every_call
def test_batched_gradients_are_those_of_one_after_the_other(name):
    tensors = tensors_of(name)
    results = run(name, tensors, rng_state=STATE)
    batch = [torch.stack([one, 2 * one, -one]) for one in upstream_of(results)]
    leaves = list(tensors.values())
    options = {"retain_graph": True, "allow_unused": True}
    at_once = torch.autograd.grad(results, leaves, batch, is_grads_batched=True, **options)
    for i in range(3):
        alone = torch.autograd.grad(results, leaves, [one[i] for one in batch], **options)
        assert_close([one if one is None else one[i] for one in at_once], alone)


@quiet
@every_call
def test_batched_gradients_of_a_state_that_the_call_draws(name):
    """Each row of the batch has the mask of forward."""
    tensors = tensors_of(name)
    torch.manual_seed(0)
    results = run(name, tensors)
    batch = [torch.stack([one] * 2) for one in upstream_of(results)]
    leaves = list(tensors.values())
    at_once = torch.autograd.grad(
        results, leaves, batch, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    expected = gradients_of(results, tensors, upstream_of(results))
    for i in range(2):
        assert_close([one if one is None else one[i] for one in at_once], expected.values())


@every_call
def test_vmap_over_states_alone(name):
    tensors = {key: value.detach() for key, value in tensors_of(name).items()}
    mapped = torch.func.vmap(lambda state: run(name, tensors, rng_state=state))(STATES)
    for i, state in enumerate(STATES):
        assert_close([one[i] for one in mapped], run(name, tensors, rng_state=state))


@every_call
def test_gradients_mapped_over_states_alone(name):
    """As an ensemble of masks over one set of weights takes them."""
    tensors = {key: value.detach() for key, value in tensors_of(name).items()}
    upstream = upstream_of(run(name, tensors, rng_state=STATE))

    def loss(tensors, state):
        results = run(name, tensors, rng_state=state)
        return sum((one * by).sum() for one, by in zip(results, upstream, strict=True))

    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(tensors, STATES)
    for i, state in enumerate(STATES):
        alone = torch.func.grad(loss)(tensors, state)
        assert_close([mapped[key][i] for key in tensors], alone.values())


def test_every_operator_has_its_way_through_vmap():
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    ours = {name for name in names if name.startswith("fused_dropout::")}
    # It decides by the randomness of vmap, and not by batched tensors.
    ours.remove("fused_dropout::draw_rng_state")
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert ours and all(has_kernel(name, "FuncTorchBatched") for name in ours)
