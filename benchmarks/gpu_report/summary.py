"""The summary of a report: a short table that is printed at the end."""

from __future__ import annotations

from ..text import align
from .results import failures

MOST_LINES = 60
MOST_COLUMNS = 150
_STEPS_OF_TIMES = ("benchmarks", "compile", "kinds")


def table(report: dict, rows: list[dict], most: int = MOST_LINES) -> str:
    """Formats the card and versions, the outcome of each step, times, and the names of failures.

    Times are ratios of the fused call to the other providers, forward and backward. A ratio below 1
    means that the fused call is faster.
    """
    head = _head(report, rows)
    steps = _steps(report["steps"])
    times = _times(rows)
    names = [f"  {name}" for name in failures(rows)]
    space = most - len(head) - len(steps) - 2  # two titles
    # Failures get a third of the space, and what the times do not need.
    for_failures = min(len(names), max(space // 3, space - len(times)))
    lines = [
        *head,
        *steps,
        "time of fused divided by that of … (forward, backward)",
        *_shortened(times or ["  nothing was measured"], space - for_failures - (not names)),
        f"failures: {len(names) or 'none'}",
        *_shortened(names, for_failures),
    ]
    return "\n".join(_narrowed(line) for line in lines[:most])


def _narrowed(line: str) -> str:
    return line if len(line) <= MOST_COLUMNS else line[: MOST_COLUMNS - 1] + "…"


def _shortened(lines: list[str], most: int) -> list[str]:
    if len(lines) <= most:
        return lines
    kept = max(most - 1, 0)
    return [*lines[:kept], f"  … and {len(lines) - kept} more in results.jsonl"][:most]


def _head(report: dict, rows: list[dict]) -> list[str]:
    found = report["machine"]
    facts = next((row["facts"] for row in rows if "facts" in row), {})
    hardware = facts.get("hardware", {})
    if report["rehearsal"]:
        card = "REHEARSAL without a GPU, with tiny sizes: it says that the steps run, nothing else"
    else:
        card = f"{found['gpu']}, compute capability {'.'.join(map(str, found['capability']))}"
    driver = hardware.get("driver") or "?"
    versions = f"torch {found['torch']}, CUDA {found.get('cuda')}, driver {driver}"
    return [card, f"{versions}, Python {found['python']}"]


def _steps(steps: list[dict]) -> list[str]:
    lines = [("step", "outcome", "s", "")]
    for step in steps:
        lines.append((step["step"], step["outcome"], f"{step['seconds']:.0f}", step["note"]))
    return [f"  {line}" for line in align(lines, 2).splitlines()]


def _times(rows: list[dict]) -> list[str]:
    """Formats a line for each case, dtype and shape."""
    medians: dict[tuple, dict] = {}
    for row in rows:
        if row.get("step") in _STEPS_OF_TIMES and "median_ms" in row:
            key = (row["case"], row["dtype"], row["shape"])
            times = medians.setdefault(key, {})
            times[row["step"], row["provider"], row["direction"]] = row["median_ms"]
    others = dict.fromkeys(
        provider
        for times in medians.values()
        for _, provider, _ in times
        if provider not in ("fused", "copy", "eager")
    )
    columns = ["copy", "eager", *others]
    lines = [("case", "dtype", "shape", "ms", "", *(c for name in columns for c in (name, "")))]
    for key, times in medians.items():
        cells = [_cell(_of(times, "fused", direction)) for direction in ("fwd", "bwd")]
        for provider in columns:
            cells += [_cell(_ratio(times, provider, direction)) for direction in ("fwd", "bwd")]
        lines.append((*key, *cells))
    return [f"  {line}" for line in align(lines, 3).splitlines()] if medians else []


def _of(times: dict, provider: str, direction: str) -> float | None:
    return next(
        (
            times[step, provider, direction]
            for step in _STEPS_OF_TIMES
            if (step, provider, direction) in times
        ),
        None,
    )


def _ratio(times: dict, provider: str, direction: str) -> float | None:
    """Returns the ratio within one step, whose providers were sampled in turn in one process.

    The copy has no backward. Its forward time is used instead.
    """
    for step in _STEPS_OF_TIMES:
        fused = times.get((step, "fused", direction))
        other = times.get((step, provider, "fwd" if provider == "copy" else direction))
        if fused and other:
            return fused / other
    return None


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
