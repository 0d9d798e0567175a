"""How a step has ended."""

from __future__ import annotations

OK, FAILED, LATE, ABSENT = "ok", "failed", "out of time", "not run"

# The exit status of a step whose tool is not there: its last line says which.
NOT_RUN = 77


def outcome_of(status: int | None, failures: int) -> str:
    """In words, of an exit status (None: out of time) and the number of failures in its rows."""
    if status is None:
        return LATE
    if status == NOT_RUN:
        return ABSENT
    return FAILED if status or failures else OK
