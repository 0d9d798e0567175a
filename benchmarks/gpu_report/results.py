"""The rows of a report: `DIR/results.jsonl`, which the children append to.

A row of a benchmark has "case", one of a training step "model", one of ncu "kernel" and "metric".
A row with "failed" names what has failed, and one with "error" a provider that could not be
measured.
"""

from __future__ import annotations

import json
from pathlib import Path


def append(file: str | Path | None, rows: list[dict]) -> None:
    """Appends the rows; to nothing where `file` is None."""
    if file is None:
        return
    with open(file, "a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def read(file: Path, place: int = 0) -> list[dict]:
    """The rows after this many bytes. A child that was killed may have left part of a line."""
    if not file.exists():
        return []
    rows = []
    for line in file.read_bytes()[place:].splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def mend(file: Path) -> None:
    """Ends the last line where a child was killed while it wrote, so that no row is added to it."""
    if file.exists() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
        with open(file, "a") as out:
            out.write("\n")


def failures(rows: list[dict]) -> list[str]:
    """What has failed, by name."""
    names = []
    for row in rows:
        if "failed" in row:
            names.append(f"{row['failed']}: {row.get('why', '')}".rstrip(": "))
        elif not str(row.get("error", "skipped")).startswith("skipped"):
            what = (row.get(key) for key in ("case", "model", "shape", "dtype", "provider"))
            names.append(f"{' '.join(str(one) for one in what if one)}: {row['error']}")
    return names
