"""Eager calls of the row operators draw and compute in one operator, with the results of two.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import pytest
import torch
from torch.library import opcheck

from tests.module_helpers import called, drawing_nothing, fixed_state, seed_and_state
from tests.row_operators.calls import (
    CALLS,
    activation_of,
    gradients_of,
    is_norm,
    ours,
    tensors_of,
    upstream_of,
)

OPERATORS = torch.ops.fused_dropout
SHAPE = (7, 40)


def operator_of(name):
    return "dropout_add_norm" if is_norm(name) else "bias_glu_dropout"


def arguments_of(name, tensors, p=0.3):
    """What stands before and behind the generator of the operator that draws."""
    options = (p, None, activation_of(name), None, None, "inverted", True, [], None, 0)
    if not is_norm(name):
        return (tensors["x"], tensors["bias"]), (CALLS[name]["gate_first"], *options)
    names = ("x", "residual", "bias", "row_scale", "layer_scale", "weight", "norm_bias")
    settings = (CALLS[name]["norm"], 1e-5, CALLS[name]["prenorm"])
    return tuple(tensors.get(key) for key in names), (*settings, *options)


def draw_and_compute(name, tensors, generator=None):
    before, behind = arguments_of(name, tensors)
    operator = getattr(OPERATORS, f"draw_{operator_of(name)}")
    *results, state = operator(*before, generator, *behind)
    return results[: len(ours(name, tensors))], state


def test_the_state_replays_the_call(name):
    tensors = tensors_of(name, SHAPE)
    state = seed_and_state(3)
    results, drawn = draw_and_compute(name, tensors)
    assert torch.equal(drawn, state) and not drawn.requires_grad
    replay = ours(name, tensors, rng_state=state)
    upstream = upstream_of(replay)
    gradients, expected = (gradients_of(one, tensors, upstream) for one in (results, replay))
    for one, other in zip(results, replay, strict=True):
        assert torch.equal(one, other)
    for key in expected:
        assert torch.equal(gradients[key], expected[key]), key


@pytest.mark.parametrize("grad", [True, False])
def test_a_plain_call_is_one_operator(name, grad):
    tensors = tensors_of(name, SHAPE, grad=grad)
    operator = f"draw_{operator_of(name)}"
    seen = called(lambda: ours(name, tensors, rng_state=None))
    assert operator in seen
    assert operator not in called(lambda: ours(name, tensors, rng_state=fixed_state()))
    assert operator not in called(lambda: ours(name, tensors, rng_state=None, training=False))


def test_a_call_draws_from_its_generator(name):
    tensors = tensors_of(name, SHAPE, grad=False)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    with drawing_nothing():
        results, _ = draw_and_compute(name, tensors, generators[0])
        others = ours(name, tensors, rng_state=None, generator=generators[1])
    for one, other in zip(results, others, strict=True):
        assert torch.equal(one, other)


def test_forward_mode_composes(name):
    tensors = tensors_of(name, SHAPE, torch.float64)
    state = seed_and_state(3)
    with torch.autograd.forward_ad.dual_level():
        tangent = torch.ones_like(tensors["x"])
        dual = {**tensors, "x": torch.autograd.forward_ad.make_dual(tensors["x"], tangent)}
        results, drawn = draw_and_compute(name, dual)
        assert torch.equal(drawn, state)
        for one, other in zip(results, ours(name, dual, rng_state=state), strict=True):
            a, b = map(torch.autograd.forward_ad.unpack_dual, (one, other))
            assert torch.equal(a.primal, b.primal) and torch.equal(a.tangent, b.tangent)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_follows_its_randomness(name, randomness):
    tensors = tensors_of(name, (2, *SHAPE), grad=False)
    if "row_scale" in tensors:
        del tensors["row_scale"]
    rows = {key: value for key, value in tensors.items() if key in ("x", "residual")}
    rest = {key: value for key, value in tensors.items() if key not in rows}

    def call(rows):
        results, state = draw_and_compute(name, {**rows, **rest})
        return results, state

    _, states = torch.func.vmap(call, randomness=randomness)(rows)
    assert torch.equal(states[0], states[1]) == (randomness == "same")


def test_opcheck(example):
    before, behind = arguments_of(example, tensors_of(example, (3, 8)))
    operator = getattr(OPERATORS, f"draw_{operator_of(example)}").default
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(operator, (*before, None, *behind), None, test_utils=utilities)
