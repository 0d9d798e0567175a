"""Command line: `python -m benchmarks --help`.

The main process measures nothing. It starts one child process for each memory mode, merges their
rows, and writes the table, the JSON file and the plot.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
import tempfile
from pathlib import Path

import torch

from . import allocator, environment, plot, report
from .cases import CASES, SMALL_SHAPE
from .devices import DEVICES
from .providers import PROVIDERS
from .runner import SKIPPED, Unit
from .timing import QUICK, Effort

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_QUICK_SHAPE = (256, 512)
_QUICK_COMPILE_S = 25  # no compilation starts after this time; a single one can take as long again


def main() -> int:
    """Returns 1 if a provider failed, else 0. A compilation skipped for time is not a failure."""
    args = _parse()
    result = _load(Path(args.load)) if args.load else _collect(args)
    print(report.table(result["rows"]))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        plot.save(result["rows"], args.plot)
    return int(any(row.get("error", SKIPPED) != SKIPPED for row in result["rows"]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compares fused dropout with eager PyTorch, torch.compile and a copy. "
        "Separate the items of a list by commas or spaces.",
    )
    add = parser.add_argument
    add("--device", choices=DEVICES, default="cpu")
    add("--cases", nargs="+", help=f"default: all of {', '.join(CASES)}")
    add("--dtypes", nargs="+", help=f"of {', '.join(_DTYPES)}; default: the first two")
    add("--shapes", nargs="+", metavar="RxC", help="default: one large, and 8x64 for some cases")
    add("--providers", nargs="+", help=f"default: {','.join(PROVIDERS)}")
    add("--memory", nargs="+", help="default: recycled,default (on cuda: default)")
    add("--quick", action="store_true", help="small, one memory mode, within a minute: for CI")
    add("--json", metavar="FILE", help="write the result to this file")
    add("--rows", metavar="FILE.jsonl", help="append every row to this file when it is measured")
    add("--plot", metavar="FILE.png", help="plot the result to this file")
    add("--load", metavar="FILE", help="measure nothing: print and plot an earlier result or rows")
    args = parser.parse_args()
    if args.device == "cuda" and not (args.load or torch.cuda.is_available()):
        parser.error("--device cuda: torch finds no CUDA device")

    def choose(option, known, default):
        chosen = _split(getattr(args, option)) or list(default)
        for name in chosen:
            if name not in known:
                parser.error(f"--{option}: unknown {name!r}, known: {', '.join(known)}")
        setattr(args, option, chosen)

    modes = allocator.MODES if args.device == "cpu" else ("default",)
    choose("cases", CASES, CASES)
    choose("dtypes", _DTYPES, _DTYPES[: 1 if args.quick else 2])
    choose("providers", PROVIDERS, PROVIDERS)
    choose("memory", modes, modes[: 1 if args.quick else 2])
    try:
        args.shapes = [_shape(text) for text in _split(args.shapes)]
    except ValueError as error:
        parser.error(f"--shapes: expected RxC such as 8192x4096, got {error}")
    return args


def _split(texts: list[str] | None) -> list[str]:
    return [name for text in texts or () for name in text.split(",") if name]


def _shape(text: str) -> tuple[int, int]:
    sizes = text.split("x")
    if len(sizes) != 2 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(text)
    return int(sizes[0]), int(sizes[1])


def _load(file: Path) -> dict:
    """Returns an earlier result. Of a file of rows, only the rows of cases are used."""
    if file.suffix != ".jsonl":
        return json.loads(file.read_text())
    rows = map(json.loads, file.read_text().splitlines())
    return {"rows": [row for row in rows if "case" in row]}


def _collect(args: argparse.Namespace) -> dict:
    """Runs a child process for each memory mode and merges their rows."""
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    result = {"meta": environment.describe(command, args.device), "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        plan_file = Path(folder, "plan.json")
        rows_file = Path(args.rows or Path(folder, "rows.jsonl"))
        for mode in args.memory:
            plan_file.write_text(json.dumps(_plan(args, mode)))
            before = rows_file.stat().st_size if rows_file.exists() else 0
            status = allocator.run_child(mode, "benchmarks.child", str(plan_file), str(rows_file))
            result["rows"] += _rows_after(rows_file, before)
            if status:
                result["rows"].append(_failed_child(mode, status))
    return result


def _rows_after(file: Path, offset: int) -> list[dict]:
    """Returns the rows after `offset` bytes."""
    if not file.exists():  # the child failed before it opened the file
        return []
    return [json.loads(line) for line in file.read_bytes()[offset:].splitlines()]


def _plan(args: argparse.Namespace, mode: str) -> dict:
    return {
        "device": args.device,
        "providers": args.providers,
        "memory": mode,
        "effort": dataclasses.asdict(QUICK if args.quick else Effort()),
        "compile_s": _QUICK_COMPILE_S if args.quick else 1e9,
        "units": [dataclasses.asdict(unit) for unit in _units(args, mode)],
    }


def _units(args: argparse.Namespace, mode: str) -> list[Unit]:
    """Returns the units to measure: all cases, dtypes and shapes.

    The small shape is measured in one memory mode only, as it is below every threshold of the
    allocator.
    """
    large = _QUICK_SHAPE if args.quick else DEVICES[args.device].default_shape
    units = []
    for name, dtype in itertools.product(args.cases, args.dtypes):
        shapes = args.shapes or [large]
        if not args.shapes and CASES[name].small and mode == args.memory[0]:
            shapes = [large, SMALL_SHAPE]
        units += [Unit(name, rows, cols, dtype) for rows, cols in shapes]
    return sorted(units, key=lambda unit: -math.prod((unit.rows, unit.cols)))


def _failed_child(mode: str, status: int) -> dict:
    every = dict.fromkeys(("case", "dtype", "shape", "provider"), "rest")
    return {**every, "memory": mode, "error": f"the measuring process ended with status {status}"}


if __name__ == "__main__":
    sys.exit(main())
