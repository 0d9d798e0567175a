"""Comparisons of scores seed by seed."""

import math

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def paired_difference(before, after, comparisons=1):
    """Mean of `after - before` over the seeds, how sure it is, and what it amounts to.

    Args:
        before, after: scores, one per seed in the same order; at least two.
        comparisons: how many differences are looked at together. All their intervals cover their
            means with 95 % confidence (Bonferroni).

    Returns:
        dict: `mean`; `standard_error`; `low` and `high`, Student's t interval of the mean;
        `verdict`: "up" or "down" if the interval leaves out zero, else "within noise", or "equal"
        where no seed differs, or "undefined" where a score is not a number; `wins` and
        `losses`: seeds with a positive and with a negative difference; `sign_test`: the p-value
        of these counts.
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
    """Two-sided p-value: of a coin as often on one side, or oftener. Ties are left out."""
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**count)
