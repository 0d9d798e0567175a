"""Every rank draws one state a call, the same one."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import called, drawing_nothing, seed_and_state
from tests.noise.calls import DRAWING
from tests.shard.calls import (
    CALLS,
    SHAPE,
    as_tuple,
    cut,
    every_call,
    parts_of,
    shard_of,
    tensors_of,
)


@every_call
def test_equally_seeded_ranks(name):
    """Several calls in a row equal calls of the full tensor, on ranks with empty parts too."""
    tensors = tensors_of(name)
    torch.manual_seed(3)
    full = [as_tuple(CALLS[name](tensors)) for _ in range(3)]
    after = torch.get_rng_state()
    for part in parts_of("with an empty part"):
        own = cut(tensors, part)
        torch.manual_seed(3)
        for results in full:
            found = as_tuple(CALLS[name](own, shard=shard_of(part)))
            assert all(torch.equal(a, b[part]) for a, b in zip(found, results, strict=True))
        assert torch.equal(torch.get_rng_state(), after)


@every_call
def test_generators(name):
    tensors = tensors_of(name)
    full = as_tuple(CALLS[name](tensors, generator=torch.Generator().manual_seed(7)))
    for part in parts_of("uneven"):
        generator = torch.Generator().manual_seed(7)
        with drawing_nothing():
            found = as_tuple(
                CALLS[name](cut(tensors, part), shard=shard_of(part), generator=generator)
            )
        assert all(torch.equal(a, b[part]) for a, b in zip(found, full, strict=True))


@every_call
def test_a_whole_that_is_empty_draws_nothing(name):
    tensors = tensors_of(name, (0, 7, 5, 6))
    with drawing_nothing():
        CALLS[name](tensors, shard=fd.Shard((0, 7, 5, 6), (0, 0, 0, 0)))


def test_what_draws_nothing_elsewhere_draws_nothing():
    x, shard = torch.randn(4, 6), fd.Shard((8, 6), (4, 0))
    with drawing_nothing():
        assert FF.dropout(x, 0.5, False, shard=shard) is x
        assert FF.dropout(x, 0, shard=shard) is x
        assert (FF.dropout(x, 1, shard=shard) == 0).all()
        assert torch.equal(FF.bias_act_dropout(x, shard=shard, p=0, activation="relu"), x.relu())
        y = FF.bias_act_dropout(x, None, 0.5, "relu", False, shard=shard, mode="classic")
        assert torch.equal(y, x.relu() * 0.5)
        for call in DRAWING.values():
            y = call.of_x(x, training=False, shard=shard)
            assert torch.equal(y, call.of_x(x, training=False))
            assert (y is x) == (call.evaluation is None)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_a_shard_draws_as_others_do(name):
    tensors = {key: value.detach() for key, value in tensors_of(name).items()}
    shard = shard_of([slice(0, size) for size in SHAPE])
    assert draws_of(lambda: CALLS[name](tensors)) == ["draw_rng_state"]
    assert draws_of(lambda: CALLS[name](tensors, shard=shard)) == ["draw_rng_state"]


def draws_of(call):
    return [one for one in called(call) if one.startswith("draw_")]


def test_the_state_of_a_seed():
    state = seed_and_state(9)
    x, shard = torch.ones(40), fd.Shard((100,), (33,))
    assert torch.equal(FF.dropout(x, shard=shard), FF.dropout(x, shard=shard, rng_state=state))
