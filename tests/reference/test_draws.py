"""Statistics of the reference's draws, bounds at 5 sigma."""

import math

import pytest
import torch

from fused_dropout import reference
from tests.reference.known import ENGINE, KNOWN_ANSWERS, PROBABILITIES, STATE, words_of

N = 1 << 20


@pytest.fixture(scope="module")
def many_draws():
    return reference.draws(torch.arange(N), (2024, 0))


def test_every_lane_is_uniform(many_draws):
    for lane in range(8):
        draws = many_draws[lane::8]
        for byte in (draws >> 8, draws & 255):
            expected = len(draws) / 256
            chi2 = ((byte.bincount(minlength=256) - expected) ** 2 / expected).sum().item()
            assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


def test_draws_near_each_other_are_uncorrelated(many_draws):
    centred = many_draws.double() - 32767.5
    for lag in [*range(1, 33), 64, 128, 256, 1024, 4096]:
        correlation = (centred[lag:] * centred[:-lag]).mean().item() / (65536**2 / 12)
        assert abs(correlation) < 5 / math.sqrt(N - lag), lag


@pytest.mark.parametrize("state", [(2024, 4), (2025, 0), (2024 + (1 << 32), 0), (2024, 1 << 34)])
def test_states_near_each_other_are_uncorrelated(many_draws, state):
    n = 1 << 17
    one = many_draws[:n].double() - 32767.5
    other = reference.draws(torch.arange(n), state).double() - 32767.5
    for shift in (0, 1, 2, 4, 8, 16):
        correlation = (one[shift:] * other[: n - shift]).mean().item() / (65536**2 / 12)
        assert abs(correlation) < 5 / math.sqrt(n - shift)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_share_of_kept_elements(many_draws, p):
    count = reference.keep_count(p)
    kept = (many_draws < count).sum().item()
    q = count / 65536
    assert abs(kept - N * q) < 5 * math.sqrt(N * q * (1 - q))


def test_uniform_and_normal_worked_by_hand():
    u = [(word // 256 + 0.5) / 2**24 for word in words_of(KNOWN_ANSWERS[0][2])]
    assert reference.uniform(torch.arange(4), (0, 0)).tolist() == u
    expected = []
    for u0, u1 in (u[:2], u[2:]):
        radius = math.sqrt(-2 * math.log(u0))
        expected += [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
    z = reference.normal(torch.arange(4), (0, 0))
    torch.testing.assert_close(z, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


def test_continuous_draws_take_four_words_a_group():
    for seed, offset, group, words in ENGINE:
        u = [(word // 256 + 0.5) / 2**24 for word in words_of(words)]
        j = 4 * group + torch.arange(4)
        assert reference.uniform(j, (seed, offset)).tolist() == u
        z = reference.normal(j, (seed, offset))
        assert z.square().view(2, 2).sum(1).tolist() == pytest.approx(
            [-2 * math.log(u[0]), -2 * math.log(u[2])], rel=1e-14, abs=0
        )
        assert reference.normal(j[2:].flip(0), (seed, offset)).tolist() == z[2:].flip(0).tolist()


def test_distribution_of_uniforms():
    n = N // 4
    u = reference.uniform(torch.arange(n), STATE)
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    assert torch.equal(u.float(), reference.uniform(torch.arange(n), STATE, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distribution_of_normals(dtype):
    z = reference.normal(torch.arange(N // 4), STATE, dtype)
    assert z.dtype == dtype
    z = z.double()
    for half in (z[0::2], z[1::2]):
        n = len(half)
        assert abs(half.mean()) < 5 / math.sqrt(n)
        assert abs(half.var() - 1) < 5 * math.sqrt(2 / n)
        assert abs((half**3).mean()) < 5 * math.sqrt(15 / n)
        assert abs((half**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs((z[0::2] * z[1::2]).mean()) < 5 / math.sqrt(len(z) // 2)
    for quantile in (0.01, 0.25, 0.5, 0.9, 0.999):
        bound = torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64))
        share = (z < bound).double().mean()
        assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / len(z))
