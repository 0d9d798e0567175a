"""Formats the result as a table for the terminal."""

from __future__ import annotations

import math
from itertools import groupby

from .text import align
from .timing import DIRECTIONS

_OTHERS = ("eager", "compile", "triton", "triton4")
_COLUMNS = (
    *("case", "dtype", "direction", "fused", "p20", "p80", "copy", *_OTHERS),
    *("x copy", "x least", "GB/s", *(f"vs {name}" for name in _OTHERS)),
    *("saved B/el", "peak B/el", "preempted"),
)
_PROVIDERS = ("fused", "eager", "compile")
_SLICE_MS = 50  # longer samples are sometimes preempted on an idle machine too
_BUSY = """\
WARNING: where "preempted" is not 0, other processes used the CPU. Such times are multiples of the
scheduler's time slice, so their ratios mean nothing. Measure again."""


def table(rows: list[dict]) -> str:
    """Returns a table for each memory mode and shape, with a line per case, dtype and direction.

    Bytes are given for fused/eager/compile, preemptions per sample for fused/copy.
    """
    blocks = []
    measured = [row for row in rows if "error" not in row]
    for memory, shape in dict.fromkeys((row["memory"], row["shape"]) for row in measured):
        block = [row for row in measured if (row["memory"], row["shape"]) == (memory, shape)]
        unit, scale = ("µs", 1e3) if min(r["median_ms"] for r in block) < 0.5 else ("ms", 1)
        head = f"{memory} memory, {shape}, times in {unit}"
        blocks.append(f"{head}\n{align(_filled([_COLUMNS, *_lines(block, scale)]), 3)}")
    if any(row.get("preemptions") and row["median_ms"] < _SLICE_MS for row in measured):
        blocks.append(_BUSY)
    failures = [row for row in rows if "error" in row]
    if failures:
        blocks.append("Not measured\n" + align([_failure(row) for row in failures], 6))
    return "\n\n".join(blocks)


def _lines(block: list[dict], scale: float):
    copies = {(r["case"], r["dtype"]): r for r in block if r["provider"] == "copy"}
    others = [row for row in block if row["provider"] != "copy"]
    order = list(dict.fromkeys((r["case"], r["dtype"]) for r in block))
    others.sort(key=lambda r: (order.index((r["case"], r["dtype"])), _rank(r["direction"])))
    for key, group in groupby(others, key=lambda r: (r["case"], r["dtype"], r["direction"])):
        by = {row["provider"]: row for row in group} | {"copy": copies.get(key[:2])}
        yield _line(key, by, scale)


def _rank(direction: str) -> int:
    return DIRECTIONS.index(direction)


def _line(key, by: dict[str, dict], scale: float) -> tuple[str, ...]:
    fused = by.get("fused") or {}
    elements = next(elements_of(row["shape"]) for row in by.values() if row)

    def median(name):
        return (by.get(name) or {}).get("median_ms")

    def speed_up(name):
        return median(name) and median("fused") and median(name) / median("fused")

    def per_element(field):
        values = [(by.get(name) or {}).get(field) for name in _PROVIDERS]
        return "/".join("-" if v is None else f"{v / elements:.2f}" for v in values)

    return (
        *key,
        *(_number(fused.get(field), scale) for field in ("median_ms", "p20_ms", "p80_ms")),
        *(_number(median(name), scale) for name in ("copy", *_OTHERS)),
        *(_number(fused.get(field)) for field in ("vs_copy", "vs_least", "gbps")),
        *(_number(speed_up(name)) for name in _OTHERS),
        per_element("saved_bytes_total"),
        per_element("peak_bytes"),
        "/".join(_number((by.get(name) or {}).get("preemptions")) for name in ("fused", "copy")),
    )


def elements_of(shape: str) -> int:
    """Returns the number of elements of a shape such as "8x64"."""
    return math.prod(map(int, shape.split("x")))


def _failure(row: dict) -> tuple[str, ...]:
    return (*(row[k] for k in ("memory", "shape", "case", "dtype", "provider")), row["error"])


def _number(value: float | None, scale: float = 1) -> str:
    if value is None:
        return "-"
    value *= scale
    return f"{value:.2f}" if 0 < value < 100 else f"{value:.0f}"


def _filled(lines: list) -> list:
    """Removes columns without values, such as those of a provider that did not run."""
    columns = [column for column in zip(*lines, strict=True) if set(column[1:]) != {"-"}]
    return list(zip(*columns, strict=True))
