"""How the time of a report is divided among its steps."""

from __future__ import annotations

from itertools import accumulate


def deadlines(limits: list[float], seconds: float) -> list[float]:
    """When each step has to have ended, in seconds since the beginning.

    Each gets its limit, or proportionally more where there is more time than all limits together.
    Where there is less the last steps get less, as the first are worth the most. What a step does
    not use is at the disposal of the next.
    """
    scale = max(1.0, seconds / sum(limits)) if limits else 1.0
    return [min(end, seconds) for end in accumulate(limit * scale for limit in limits)]
