"""The applied noise, recovered from outputs and from gradients."""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import CAPABILITIES, DTYPES, SEED, forced, same_bits, state
from tests.noise.calls import (
    ALPHA,
    BETA,
    STATE,
    TEMPERATURE,
    every_drawing_call,
    tensors_of,
    undecided,
)

COUNT = 100_003


def gaussian_noise(dtype=torch.float32, count=COUNT, p=0.5, rng_state=STATE):
    """z from outputs and from gradients; with p = 0.5 sigma is 1."""
    x = torch.ones(count, dtype=dtype, requires_grad=True)
    y = FF.gaussian_dropout(x, p, rng_state=rng_state)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach().double() - 1, gradient.double() - 1


def concrete_mask(logit=-0.8, dtype=torch.float32, count=COUNT, rng_state=STATE):
    """What is kept of ones, from outputs and from gradients."""
    x = torch.ones(count, dtype=dtype, requires_grad=True)
    logit = torch.tensor(logit)
    y = FF.concrete_dropout(x, logit, TEMPERATURE, rng_state=rng_state)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    q = torch.sigmoid(-logit.double())
    return y.detach().double() * q, gradient.double() * q


def standout_mask(z, alpha=ALPHA, beta=BETA, rng_state=STATE):
    x = torch.ones_like(z, requires_grad=True)
    y = FF.standout(x, z, alpha, beta, rng_state=rng_state)
    (gradient,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach() != 0, gradient != 0


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_normal_numbers_are_the_contracts(dtype, capability):
    exact = reference.normal(torch.arange(COUNT), STATE)
    for found in gaussian_noise(dtype):
        # 1 + z is rounded.
        tolerance = 2e-6 if dtype == torch.float32 else 1e-14
        assert (found - exact).abs().max() < tolerance


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_uniform_numbers_are_the_contracts(dtype, capability):
    u = reference.uniform(torch.arange(COUNT), STATE)
    logit = torch.tensor(-0.8).double()
    exact = torch.sigmoid(-(logit + u.log() - (-u).log1p()) / TEMPERATURE)
    for found in concrete_mask(dtype=dtype):
        tolerance = 2e-6 if dtype == torch.float32 else 1e-7  # the logit was rounded to fp32
        assert (found - exact).abs().max() < tolerance


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_standout_decisions_are_the_contracts(dtype, capability):
    z = torch.linspace(-14, 14, COUNT).to(dtype)
    expected = reference.standout(torch.ones_like(z), z, ALPHA, BETA, STATE) != 0
    sure = ~undecided({"z": z})
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


@pytest.mark.parametrize("shared", [(0,), (1,), (0, 2)], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_shared_draws_in_any_layout(shared, layout):
    x = torch.ones(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    y = FF.gaussian_dropout(x, 0.5, shared_dims=shared, rng_state=STATE)
    expected = reference.normal(reference.mask_index(x, shared), STATE)
    assert (y.detach() - 1 - expected).abs().max() < 2e-6
    z = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout)
    kept = FF.standout(x, z, shared_dims=shared, rng_state=STATE) != 0
    draws = reference.draws(reference.mask_index(x, shared), STATE)
    assert torch.equal(kept, draws < reference.standout_threshold(z).round())


# Of this state, even indices whose word begins with 24 zeros or ones.
EXTREME = {False: 845234, True: 24949118}


@pytest.mark.parametrize("ones", [False, True])
def test_the_ends_of_the_uniform_numbers(ones, capability):
    index = EXTREME[ones]
    rng_state = state(SEED, 8)
    j = torch.tensor([index])
    u = float(reference.uniform(j, rng_state))
    assert u == (1 - 2.0**-25 if ones else 2.0**-25)
    exact = float(reference.normal(j, rng_state))
    for dtype in (torch.float32, torch.float64):
        x = torch.full((1,), 1e8, dtype=dtype)  # 1 + z would lose z
        y = torch.ops.fused_dropout.gaussian_dropout(x, rng_state, 0.5, None, [], [1], index)
        assert abs(float(y / 1e8) - 1 - exact) < 4e-7
        logit = torch.tensor(0.0, dtype=dtype)
        kept = torch.ops.fused_dropout.concrete_dropout(
            torch.ones(1, dtype=dtype), logit, rng_state, 1.0, [], [1], index
        )
        # With temperature 1 and p = 0.5: twice 1 - u.
        assert float(kept) == pytest.approx(2 * (1 - u), rel=2e-6)


# ---------------------------------------------------------------- statistics


def test_moments_of_the_normal_numbers():
    z = gaussian_noise(count=4_000_000)[0]
    n = z.numel()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((z**3).mean()) < 5 * (15 / n) ** 0.5
    assert abs((z**4).mean() - 3) < 5 * (96 / n) ** 0.5
    # Neighbours share a pair of uniform numbers, others a counter; rows and halves do not agree.
    for lag in (1, 2, 3, 4, 8, 512, 4096, n // 2):
        assert abs((z[:-lag] * z[lag:]).mean()) < 5 / (n - lag) ** 0.5
    # The distribution function, at some points.
    for x in (-3.0, -1.0, -0.1, 0.0, 0.5, 2.0, 4.0):
        exact = float(torch.special.ndtr(torch.tensor(x).double()))
        found = float((z < x).double().mean())
        assert abs(found - exact) < 5 * (exact * (1 - exact) / n) ** 0.5 + 1e-7


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_gaussian_moments_are_those_of_dropout(p):
    x = torch.full((2_000_000,), 3.0, dtype=torch.float64)
    y = FF.gaussian_dropout(x, p, rng_state=STATE)
    variance = 9 * p / (1 - p)
    assert abs(y.mean() - 3) < 5 * (variance / x.numel()) ** 0.5
    assert abs(y.var() / variance - 1) < 5 * (2 / x.numel()) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_concrete_drops_about_p(p):
    """d < 1/2 exactly where a Bernoulli draw keeps: P(logit u < -logit p) = 1 - p."""
    logit = float(torch.logit(torch.tensor(p).double()))
    kept = concrete_mask(logit, count=1_000_000)[0]
    assert abs(float((kept > 0.5).double().mean()) - (1 - p)) < 5 * (p * (1 - p) / 1e6) ** 0.5


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


@every_drawing_call
def test_rows_differ(name):
    """No noise repeats itself from row to row, or from call to call."""
    from tests.noise.calls import ours

    tensors = {k: torch.ones_like(t) for k, t in tensors_of(name, (1025, 64)).items()}
    if name == "standout":
        tensors["z"] = torch.zeros(1025, 64)
    y = ours(name, tensors)
    for lag in (1, 2, 4, 8, 64, 512, 1024):
        assert not any(torch.equal(a, b) for a, b in zip(y[:-lag], y[lag:], strict=True))
    torch.manual_seed(0)
    calls = [ours(name, tensors, rng_state=None) for _ in range(3)]
    for a, b in itertools.combinations(calls, 2):
        assert not same_bits(a, b)
        assert not torch.equal(a[:, 1:], b[:, :-1])
