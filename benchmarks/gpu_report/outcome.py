"""The outcome of a step."""

from __future__ import annotations

OK, FAILED, LATE, ABSENT = "ok", "failed", "out of time", "not run"

# Exit status of a step whose tool is missing. Its last line of output names the tool.
NOT_RUN = 77


def outcome_of(status: int | None, failures: int) -> str:
    """Returns the outcome for an exit status (None: out of time) and a number of failed rows."""
    if status is None:
        return LATE
    if status == NOT_RUN:
        return ABSENT
    return FAILED if status or failures else OK
