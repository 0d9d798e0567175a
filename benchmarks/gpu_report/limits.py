"""Divides the time of a report among its steps."""

from __future__ import annotations

from itertools import accumulate


def deadlines(limits: list[float], seconds: float) -> list[float]:
    """Returns the time by which each step must end, in seconds since the start of the report.

    Each step gets its limit, or proportionally more if there is more time than the sum of the
    limits. If there is less time, the last steps get less, as the first ones are more valuable.
    Time that a step does not use goes to the next one.
    """
    scale = max(1.0, seconds / sum(limits)) if limits else 1.0
    return [min(end, seconds) for end in accumulate(limit * scale for limit in limits)]
