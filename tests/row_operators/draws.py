"""Eager calls of the row operators draw a state, unless they are given one, and call one operator.

For the families that work on rows: tests/norm and tests/gated import these tests.
"""

import pytest
import torch

from tests.module_helpers import called, drawing_nothing, fixed_state, seed_and_state
from tests.row_operators.calls import gradients_of, is_norm, ours, tensors_of, upstream_of

SHAPE = (7, 40)


def test_the_drawn_state_replays_the_call(name):
    tensors = tensors_of(name, SHAPE)
    state = seed_and_state(3)
    results = ours(name, tensors, rng_state=None)
    replay = ours(name, tensors, rng_state=state)
    upstream = upstream_of(replay)
    gradients, expected = (gradients_of(one, tensors, upstream) for one in (results, replay))
    for one, other in zip(results, replay, strict=True):
        assert torch.equal(one, other)
    for key in expected:
        assert torch.equal(gradients[key], expected[key]), key


@pytest.mark.parametrize("grad", [True, False])
def test_the_operators_of_a_call(name, grad):
    tensors = tensors_of(name, SHAPE, grad=grad)
    operator = "dropout_add_norm" if is_norm(name) else "bias_glu_dropout"
    seen = called(lambda: ours(name, tensors, rng_state=None))
    assert seen == {"draw_rng_state", operator}
    assert called(lambda: ours(name, tensors, rng_state=fixed_state())) == {operator}
    assert called(lambda: ours(name, tensors, rng_state=None, training=False)) == {operator}


def test_a_call_draws_from_its_generator(name):
    tensors = tensors_of(name, SHAPE, grad=False)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    with drawing_nothing():
        first, second = (ours(name, tensors, rng_state=None, generator=one) for one in generators)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_forward_mode_draws_a_state_too(name):
    tensors = tensors_of(name, SHAPE, torch.float64)
    state = seed_and_state(3)
    with torch.autograd.forward_ad.dual_level():
        tangent = torch.ones_like(tensors["x"])
        dual = {**tensors, "x": torch.autograd.forward_ad.make_dual(tensors["x"], tangent)}
        results = ours(name, dual, rng_state=None)
        for one, other in zip(results, ours(name, dual, rng_state=state), strict=True):
            a, b = map(torch.autograd.forward_ad.unpack_dual, (one, other))
            assert torch.equal(a.primal, b.primal) and torch.equal(a.tangent, b.tangent)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_follows_its_randomness(name, randomness):
    tensors = tensors_of(name, SHAPE, grad=False)
    x = tensors.pop("x")
    x = x.expand(2, *x.shape)
    call = torch.func.vmap(
        lambda one: ours(name, {**tensors, "x": one}, rng_state=None), randomness=randomness
    )
    for result in call(x):
        assert torch.equal(result[0], result[1]) == (randomness == "same")
