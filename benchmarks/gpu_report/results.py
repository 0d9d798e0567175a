"""The rows of a report in `DIR/results.jsonl`. Child processes append to this file.

A row of a benchmark has "case", a row of a training step has "model", and a row of ncu has "kernel"
and "metric". A row with "failed" names a failed test or check. A row with "error" is of a provider
that could not be measured.
"""

from __future__ import annotations

import json
from pathlib import Path


def append(file: str | Path | None, rows: list[dict]) -> None:
    """Appends the rows to a file. Does nothing if `file` is None."""
    if file is None:
        return
    with open(file, "a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def read(file: Path, offset: int = 0) -> list[dict]:
    """Returns the rows after `offset` bytes, without incomplete lines of killed processes."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes()[offset:].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def mend(file: Path) -> None:
    """Ends an incomplete last line, so that the next row is not appended to it."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with open(file, "a") as out:
            out.write("\n")


def failures(rows: list[dict]) -> list[str]:
    """Returns the names and reasons of all failures."""
    names = []
    for row in rows:
        if "failed" in row:
            names.append(f"{row['failed']}: {row.get('why', '')}".rstrip(": "))
        elif not str(row.get("error", "skipped")).startswith("skipped"):
            what = (row.get(key) for key in ("case", "model", "shape", "dtype", "provider"))
            names.append(f"{' '.join(str(one) for one in what if one)}: {row['error']}")
    return names
