"""Standout: its decisions, which are the same everywhere, wrong arguments, and the module."""

import math

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import CAPABILITIES, DTYPES, forced
from tests.module_helpers import drawing_nothing
from tests.noise.calls import ALPHA, BETA, CALLS
from tests.noise.noise_call import STATE

STANDOUT = CALLS["standout"]
COUNT = 100_003
X = torch.randn(4, 6)


def standout_mask(z, alpha=ALPHA, beta=BETA, rng_state=STATE):
    x = torch.ones_like(z, requires_grad=True)
    y = FF.standout(x, z, alpha, beta, rng_state=rng_state)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach() != 0, gradient != 0


def undecided(z, alpha=ALPHA, beta=BETA):
    """Where a threshold computed in fp32 may be another than the exact one."""
    exact = reference.standout_threshold(z.float(), alpha, beta)
    return ((exact % 1) - 0.5).abs() < 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_standout_decisions_are_the_contracts(dtype, capability):
    z = torch.linspace(-14, 14, COUNT).to(dtype)
    expected = reference.standout(torch.ones_like(z), z, ALPHA, BETA, STATE) != 0
    sure = ~undecided(z)
    assert sure.double().mean() > 0.95
    for kept in standout_mask(z):
        assert torch.equal(kept[sure], expected[sure])
        # Where it is not, the threshold is one of two numbers.
        assert (kept != expected).sum() <= 2
    assert 0.2 < expected.double().mean() < 0.8


@pytest.mark.parametrize("side", [-1, 1])
def test_standout_thresholds(side, capability):
    """Each unit's number is put just below or above the half that decides about its draw."""
    draws = reference.draws(torch.arange(COUNT), STATE)
    wanted = torch.special.logit((draws + 0.5 + 0.015 * side).double() / 65536).float()
    exact = reference.standout_threshold(wanted)  # of the fp32 number
    sure = ((exact - draws - 0.5) * side - 0.015).abs() < 0.005
    assert sure.double().mean() > 0.9
    for kept in standout_mask(wanted, alpha=1.0, beta=0.0):
        assert bool((kept[sure] == (side > 0)).all())


def test_standout_decisions_are_the_same_everywhere():
    """Bit for bit: for every instruction set, dtype and in the composition of torch operators."""
    z = (8 * torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))).bfloat16()
    masks = []
    for name in CAPABILITIES:
        with forced(name):
            for dtype in DTYPES:
                masks += standout_mask(z.to(dtype), alpha=0.7, beta=-0.3)
    x = torch.ones(z.shape)
    composed, _ = torch.func.jvp(
        lambda x: FF.standout(x, z.float(), 0.7, -0.3, rng_state=STATE), (x,), (x,)
    )
    masks.append(composed != 0)
    for mask in masks[1:]:
        assert torch.equal(mask, masks[0])


def test_standout_at_the_ends():
    """Far below everything is dropped, far above kept; infinities too; NaN is seen."""
    z = torch.tensor([-torch.inf, -1e30, -20.0, 20.0, 1e30, torch.inf, torch.nan]).repeat(1000, 1)
    x = torch.full_like(z, 3.0)
    y = FF.standout(x, z, rng_state=STATE)
    assert torch.equal(y, torch.tensor([0.0, 0, 0, 3, 3, 3, 3]).repeat(1000, 1))
    # Infinities that are dropped do not leak.
    x[:, :3] = torch.tensor([torch.inf, torch.nan, -torch.inf])
    assert torch.equal(FF.standout(x, z, rng_state=STATE), y)


def test_standout_with_alpha_zero_is_dropout():
    z = torch.randn(COUNT)
    for beta, p in ((0.0, 0.5), (float(torch.logit(torch.tensor(0.9))), 0.1)):
        kept = FF.dropout_mask((COUNT,), p, STATE)
        for found in standout_mask(z, alpha=0.0, beta=beta):
            assert torch.equal(found, kept)


def test_standout_expectation():
    """Training has the mean of evaluation."""
    z = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0])
    x = torch.tensor([1.0, 2.0, -1.0, 0.5, 4.0])
    rows = 400_000
    y = FF.standout(x.expand(rows, 5), z.expand(rows, 5), ALPHA, BETA, rng_state=STATE)
    mean = FF.standout(x, z, ALPHA, BETA, training=False)
    q = torch.sigmoid(ALPHA * z + BETA)
    spread = (x.square() * q * (1 - q) / rows).sqrt()
    assert bool(((y.mean(0) - mean).abs() < 5 * spread + 1e-6).all())


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("training", [True, False])
def test_standout_arguments(training):
    for arguments, text in [
        ({"z": torch.zeros(4)}, "z has 1 dimensions, but x has 2"),
        ({"z": torch.zeros(4, 5)}, "z has shape"),
        ({"z": torch.zeros(4, 6, dtype=torch.int64)}, "z has dtype"),
        ({"z": torch.zeros(4, 6, device="meta")}, "z is on meta"),
    ]:
        with drawing_nothing(), pytest.raises(RuntimeError, match=f"standout: {text}"):
            STANDOUT.of_x(X, **arguments, training=training)
    for argument in ("alpha", "beta"):
        for value in (float("nan"), float("inf")):
            text = f"{argument} is .*, but expected a finite number"
            with drawing_nothing(), pytest.raises(ValueError, match=f"standout: {text}"):
                STANDOUT.of_x(X, **{argument: value}, training=training)
            with pytest.raises(ValueError, match=f"Standout: {text}"):
                fd.Standout(**{argument: value})
    with pytest.raises(ValueError, match="Standout: activation is 'none'"):
        fd.Standout(activation="none")


def test_the_operators_check_what_training_needs():
    tensors = STANDOUT.tensors_of(X.shape)
    with pytest.raises(ValueError, match="rng_state is None, but training needs one"):
        STANDOUT.operator(tensors, rng_state=None)
    operator, arguments = CALLS["standout_eval"].backward_call(tensors, X, [6, 1], x=None)
    with pytest.raises(ValueError, match="standout_backward: x is None"):
        operator(*arguments)


# ---------------------------------------------------------------- the module


def test_state_dict_and_repr():
    assert not fd.Standout().state_dict()
    assert repr(fd.Standout()) == "Standout(alpha=1.0, beta=0.0, activation='relu')"


def test_standout_drops_small_units_more():
    module = fd.Standout(alpha=2.0, activation="identity")
    z = torch.tensor([-2.0, 0.0, 2.0]).expand(20_000, 3)
    kept = (module(z + 1e-3) != 0).double().mean(0)
    for found, unit in zip(kept, (-2.0, 0.0, 2.0), strict=True):
        q = 1 / (1 + math.exp(-2 * unit))
        assert float(found) == pytest.approx(q, abs=0.02)


def test_standout_trains_behind_its_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), fd.Standout(beta=1.0), nn.Linear(32, 1))
    x = torch.randn(64, 6)
    y = x[:, :1] * 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
