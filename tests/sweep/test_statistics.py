"""Comparisons over seeds against closed forms, and the verdict drawn from them."""

import math

import numpy as np
import pytest

from examples.sweep.statistics import paired_difference, sign_test
from examples.sweep.verdict import judge


def t_quantile(probability, freedom):
    """Of Student's distribution, where it has a closed form."""
    if freedom == 1:
        return math.tan(math.pi * (probability - 0.5))
    spread = probability * (1 - probability)
    if freedom == 2:
        return (2 * probability - 1) / math.sqrt(2 * spread)
    assert freedom == 4
    root = math.sqrt(4 * spread)
    return 2 * math.sqrt(math.cos(math.acos(root) / 3) / root - 1)


@pytest.mark.parametrize("comparisons", [1, 5])
@pytest.mark.parametrize("differences", [(1.0, 2.0), (1.0, -2.0, 4.0), (3.0, 1.0, 4.0, 1.0, 5.0)])
def test_paired_difference(differences, comparisons):
    count = len(differences)
    before = np.arange(count) * 7.0
    result = paired_difference(before, before + differences, comparisons)
    mean = sum(differences) / count
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    error = math.sqrt(variance / count)
    margin = t_quantile(1 - 0.025 / comparisons, count - 1) * error
    assert result["mean"] == pytest.approx(mean)
    assert result["standard_error"] == pytest.approx(error)
    assert result["low"] == pytest.approx(mean - margin)
    assert result["high"] == pytest.approx(mean + margin)
    assert result["verdict"] == ("up" if mean > margin else "within noise")
    assert result["wins"] == sum(d > 0 for d in differences)
    assert result["losses"] == count - result["wins"]
    assert result["sign_test"] == sign_test(result["wins"], result["losses"])


@pytest.mark.parametrize(
    "after, verdict",
    [
        ([1.0, 2.0, 3.0], "equal"),
        ([2.0, 3.0, 4.0], "up"),
        ([0.0, 1.1, 2.0], "down"),
        ([0.0, 3.0, 3.0], "within noise"),
        ([0.0, math.nan, 2.0], "undefined"),
        ([0.0, math.inf, 2.0], "undefined"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_verdict_of_a_difference(after, verdict):
    assert paired_difference([1.0, 2.0, 3.0], after)["verdict"] == verdict


@pytest.mark.parametrize(
    "wins, losses, expected",
    [(10, 0, 2 / 1024), (8, 1, 20 / 512), (1, 8, 20 / 512), (5, 5, 1.0), (1, 0, 1.0), (0, 0, 1.0)],
)
def test_sign_test(wins, losses, expected):
    assert sign_test(wins, losses) == expected


# ---------------------------------------------------------------- verdict

NOISE = np.array([-0.1, 0.0, 0.1, 0.05, -0.05])


def scores(val=0.0, gap=0.0, test=0.0, noise=NOISE[::-1]):
    result = {
        "val_acc": 90 + val + noise,
        "gap": 10 + gap - noise,
        "test_acc": 90 + test - noise,
        "test_loss": 0.3 + noise,
    }
    return {**result, **{f"mc_{name}": value for name, value in result.items()}}


NONE = scores(noise=NOISE)


@pytest.mark.parametrize(
    "at_half, effective, reason",
    [
        ({"val": 2, "gap": -2, "test": 2}, "yes", "the test rows confirm it"),
        ({"val": 2, "gap": -2, "test": 0}, "not distinguishable", "do not confirm it"),
        ({"val": 2, "gap": 0, "test": 2}, "not distinguishable", "gap to training does not shrink"),
        ({"val": 0.01, "gap": -2, "test": 2}, "not distinguishable", "beyond the noise"),
        ({"val": -2, "gap": -2, "test": 2}, "no", "falls at every p"),
    ],
)
def test_effective(at_half, effective, reason):
    verdict = judge({0.0: NONE, 0.5: scores(**at_half), 0.8: scores(val=-3)})
    assert verdict["chosen_p"] == 0.5
    assert verdict["effective"] == effective
    assert reason in verdict["reason"]
    assert set(verdict["changes"]) == {0.5, 0.8}


def test_choice_does_not_see_the_test_rows():
    verdict = judge({0.0: NONE, 0.2: scores(val=1), 0.5: scores(test=9)})
    assert verdict["chosen_p"] == 0.2
    assert verdict["test"]["test_acc"]["mean"] == pytest.approx(0)


def test_smallest_of_equals():
    assert judge({0.0: NONE, 0.2: scores(val=1), 0.5: scores(val=1)})["chosen_p"] == 0.2


def test_intervals_hold_together():
    """The more p are tried, the more the best of them has to show."""
    few = judge({0.0: NONE, 0.5: scores(val=1)})["changes"][0.5]["val_acc"]
    grid = {0.0: NONE, **{p / 10: scores() for p in range(1, 5)}, 0.5: scores(val=1)}
    many = judge(grid)["changes"][0.5]["val_acc"]
    assert many["mean"] == few["mean"] == pytest.approx(1)
    assert many["low"] < few["low"] and many["high"] > few["high"]


def test_monte_carlo_average_against_plain_evaluation():
    with_average = scores(val=1)
    with_average["mc_test_acc"] = with_average["test_acc"] + 0.5
    test = judge({0.0: NONE, 0.5: with_average})["test"]
    assert test["mc_test_acc"]["mean"] == pytest.approx(0.5)
    assert test["mc_test_loss"]["verdict"] == "equal"
