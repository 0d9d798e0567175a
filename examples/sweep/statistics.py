"""Comparisons of scores seed by seed."""

import math

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def paired_difference(before, after, comparisons=1):
    """Computes the mean of `after - before` over the seeds, its interval and a verdict.

    Args:
        before: scores, one for each seed; at least two.
        after: scores for the same seeds, in the same order.
        comparisons: number of differences that are considered together. The intervals of all of
            them hold jointly with 95 % confidence (Bonferroni).

    Returns:
        dict: the mean and related statistics:

            - `mean` and `standard_error`;
            - `low` and `high`: Student's t interval of the mean;
            - `verdict`: "up" or "down" if the interval does not contain zero, otherwise "within
              noise"; "equal" if no seed differs; "undefined" if a score is not finite;
            - `wins` and `losses`: numbers of seeds with a positive and with a negative difference;
            - `sign_test`: the p-value of these numbers.
    """
    difference = np.asarray(after, float) - np.asarray(before, float)
    count = len(difference)
    mean = difference.mean()
    error = difference.std(ddof=1) / math.sqrt(count)
    missed = (1 - CONFIDENCE) / comparisons
    margin = stats.t.ppf(1 - missed / 2, count - 1) * error
    if not math.isfinite(mean):
        verdict = "undefined"
    elif not difference.any():
        verdict = "equal"
    elif abs(mean) <= margin:
        verdict = "within noise"
    else:
        verdict = "up" if mean > 0 else "down"
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return {
        "mean": float(mean),
        "standard_error": float(error),
        "low": float(mean - margin),
        "high": float(mean + margin),
        "verdict": verdict,
        "wins": wins,
        "losses": losses,
        "sign_test": sign_test(wins, losses),
    }


def sign_test(wins, losses):
    """Returns the two-sided p-value of the sign test. Ties are not counted."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)
