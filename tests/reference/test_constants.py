"""keep_count, scales and shifts by the reference."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from fused_dropout import reference
from tests.reference.known import PROBABILITIES, STATE


@pytest.mark.parametrize(
    "p, count",
    [
        (0, 65536),
        (1, 0),
        (0.5, 32768),
        (0.1, 58982),
        (0.33, 43909),
        (0.003, 65339),
        (0.001, 65470),
        (0.999, 66),
        (1e-10, 65536),
        (0.5 / 65536, 65536),  # the ties go to the even neighbour
        (1.5 / 65536, 65534),
        (2.5 / 65536, 65534),
        (1 - 0.5 / 65536, 0),
        (1 - 1.5 / 65536, 2),
        (1 - 2.5 / 65536, 2),
    ],
)
def test_keep_count(p, count):
    assert reference.keep_count(p) == count
    assert reference.keep_count(torch.tensor(p, dtype=torch.float64)) == count


@pytest.mark.parametrize("p", [-0.1, 1.1, 2, math.nan])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got"):
        reference.keep_count(p)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_scale_is_that_of_the_probability_applied(p):
    count = reference.keep_count(p)
    y = reference.dropout(torch.ones(4096), p, STATE)
    assert set(y.tolist()) == {0.0, torch.tensor(65536 / count).item()}
    # All 65536 draws together give back the value, with the scale as exact as a double can be.
    assert abs(Fraction(reference.scale(p)) * count / 65536 - 1) <= Fraction(1, 2**52)


@pytest.mark.parametrize("mode", reference.MODES)
def test_constants_at_the_ends(mode):
    assert reference.constants(0, mode) == (1, 0, 1 * reference.ALPHA_PRIME * (mode == "alpha"))
    assert reference.constants(1, mode) == (0, 0, 0)
    assert reference.constants(1 - 0.5 / 65536, mode) == (0, 0, 0)
    assert reference.scale(1) == 0


@pytest.mark.parametrize("p", PROBABILITIES)
def test_alpha_keeps_zero_mean_and_unit_variance(p):
    a, c, d = reference.constants(p, "alpha")
    q = reference.keep_count(p) / 65536
    mean = q * c + (1 - q) * d
    second_moment = q * (a * a + c * c) + (1 - q) * d * d  # of a standard normal input
    assert abs(mean) < 1e-15 * a
    assert second_moment == pytest.approx(1, rel=1e-14, abs=0)


def test_alpha_constants_are_those_of_torch():
    _, c, d = reference.constants(0.5, "alpha")
    of_torch = F.alpha_dropout(torch.zeros(1000, dtype=torch.float64), 0.5, training=True).unique()
    torch.testing.assert_close(of_torch, torch.tensor([d, c], dtype=torch.float64))
    # The value that a dropped element takes before the affine map: the infimum of SELU.
    least = reference.activation("selu", torch.tensor(-1e3, dtype=torch.float64))
    assert least.item() == pytest.approx(reference.ALPHA_PRIME, rel=1e-15, abs=0)


def moments(p, mode, values):
    """Mean and variance of dropout over equally likely values, each draw counted exactly."""
    a, c, d = map(Fraction, reference.constants(p, mode))
    keep = Fraction(reference.keep_count(p), 65536)
    outcomes = [(keep, a * y + c) for y in values] + [(1 - keep, d)] * len(values)
    mean = sum(weight * y for weight, y in outcomes) / len(values)
    return mean, sum(weight * (y - mean) ** 2 for weight, y in outcomes) / len(values)


def test_moments_of_the_worked_example():
    values = (1, 2, 3, 4)
    assert moments(0.5, "classic", values) == (1.25, 2.1875)
    assert moments(0.5, "inverted", values) == (2.5, 8.75)
    assert [moments(0.5, "classic", [y]) for y in values] == [
        (0.5, 0.25),
        (1, 1),
        (1.5, 2.25),
        (2, 4),
    ]
    assert [moments(0.5, "inverted", [y]) for y in values] == [(1, 1), (2, 4), (3, 9), (4, 16)]


def test_variance_over_the_keep_probability():
    probabilities = [drop / 100 for drop in range(5, 100, 5)]
    classic = [moments(p, "classic", (1, 2, 3, 4))[1] for p in probabilities]
    inverted = [moments(p, "inverted", (1, 2, 3, 4))[1] for p in probabilities]
    assert probabilities[classic.index(max(classic))] == 0.4
    assert inverted == sorted(inverted)
