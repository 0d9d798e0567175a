"""The applied noise, recovered from outputs and from gradients."""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import SEED, same_bits, state
from tests.noise.calls import TEMPERATURE, every_drawing_call
from tests.noise.noise_call import STATE

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


@every_drawing_call
def test_gradients_have_the_noise_of_the_result(call, capability):
    tensors = call.tensors_of((COUNT,))
    tensors["x"] = torch.ones(COUNT, requires_grad=True)
    y = call.ours(tensors)
    (gradient,) = torch.autograd.grad(y, tensors["x"], torch.ones_like(y))
    assert torch.allclose(gradient, y, rtol=1e-5, atol=1e-6)


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


@every_drawing_call
def test_rows_differ(call):
    """No noise repeats itself from row to row, or from call to call."""
    tensors = {k: torch.zeros_like(t) for k, t in call.tensors_of((1025, 64)).items()}
    tensors["x"] = torch.ones(1025, 64)
    y = call.ours(tensors)
    for lag in (1, 2, 4, 8, 64, 512, 1024):
        assert not any(torch.equal(a, b) for a, b in zip(y[:-lag], y[lag:], strict=True))
    torch.manual_seed(0)
    calls = [call(tensors) for _ in range(3)]
    for a, b in itertools.combinations(calls, 2):
        assert not same_bits(a, b)
        assert not torch.equal(a[:, 1:], b[:, :-1])
