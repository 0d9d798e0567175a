"""Eager calls draw their state and compute in one operator, with the results of two."""

import pytest
import torch
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF
from tests.helpers import operator
from tests.module_helpers import called, drawing_nothing, seed_and_state

OPERATORS = torch.ops.fused_dropout


def draw_and_compute(x, bias=None, residual=None, generator=None, p=0.5, activation="gelu"):
    return OPERATORS.draw_bias_act_dropout(
        x, bias, residual, generator, p, None, activation, None, None, -1, "inverted", True, [],
        None, 0,
    )  # fmt: skip


def draw_and_write(x, generator=None, p=0.5):
    return OPERATORS.draw_dropout_(x, generator, p, None, "inverted", True, [], None, 0)


class Names(TorchDispatchMode):
    """Names of our operators that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "fused_dropout":
            self.seen.append(function._schema.name.split("::")[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias, residual", [(False, False), (True, False), (True, True)])
def test_state_replays_the_call(bias, residual):
    x = torch.randn(7, 40, requires_grad=True)
    bias = torch.randn(40, requires_grad=True) if bias else None
    residual = torch.randn(7, 40, requires_grad=True) if residual else None
    given = [one for one in (x, bias, residual) if one is not None]
    state = seed_and_state(3)
    y, drawn = draw_and_compute(x, bias, residual)
    assert torch.equal(drawn, state) and not drawn.requires_grad
    expected = operator(x, bias, residual, state, activation="gelu")
    assert torch.equal(y, expected)
    dy = torch.randn(7, 40)
    for ours, theirs in zip(
        torch.autograd.grad(y, given, dy), torch.autograd.grad(expected, given, dy), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("needs_grad", [True, False])
def test_in_place(needs_grad):
    x = torch.randn(7, 40, requires_grad=needs_grad)
    state = seed_and_state(3)
    y = x * 1
    version = y._version
    assert torch.equal(draw_and_write(y), state)
    assert y._version == version + 1
    expected = FF.dropout(x, 0.5, rng_state=state)
    assert torch.equal(y, expected)
    if needs_grad:
        gradients = (torch.autograd.grad(one.sin().sum(), x)[0] for one in (y, expected))
        assert torch.equal(*gradients)


def test_generator():
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    x = torch.ones(7, 40)
    with drawing_nothing():
        y, _ = draw_and_compute(x, generator=generators[0])
        assert torch.equal(y, FF.bias_act_dropout(x, generator=generators[1]))


def test_opcheck():
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    x = torch.randn(3, 8, requires_grad=True)
    options = (0.5, None, "gelu", None, None, -1, "inverted", True, [], None, 0)
    opcheck(OPERATORS.draw_bias_act_dropout.default, (x, None, None, None, *options), None,
            test_utils=tests)  # fmt: skip
    options = (0.5, None, "inverted", True, [], None, 0)
    opcheck(OPERATORS.draw_dropout_.default, (torch.randn(3, 8), None, *options), None,
            test_utils=tests)  # fmt: skip


def test_a_plain_call_is_one_operator():
    x = torch.ones(3, 8)
    assert "draw_bias_act_dropout" in called(lambda: FF.dropout(x, 0.5))
    assert "draw_dropout_" in called(lambda: FF.dropout(x.clone(), 0.5, inplace=True))
    state = torch.tensor([1, 8])
    assert called(lambda: FF.dropout(x, 0.5, rng_state=state)) == {"bias_act_dropout"}


def test_a_mode_sees_a_pure_operator():
    with Names() as names:
        FF.dropout(torch.ones(3, 8), 0.5)
        FF.dropout(torch.ones(3, 8), 0.5, inplace=True)
    assert names.seen == ["draw_rng_state", "bias_act_dropout", "draw_rng_state", "dropout_"]


def test_forward_mode_composes():
    x, tangent = torch.randn(3, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    state = seed_and_state(3)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        y, drawn = draw_and_compute(dual)
        replay = FF.bias_act_dropout(dual, None, 0.5, "gelu", rng_state=state)
        ours, theirs = map(torch.autograd.forward_ad.unpack_dual, (y, replay))
        assert torch.equal(drawn, state)
        assert torch.equal(ours.primal, theirs.primal)
        assert torch.equal(ours.tangent, theirs.tangent)
