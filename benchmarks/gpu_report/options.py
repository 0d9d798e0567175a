"""The command line of a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from .steps import NAMES
from .workspace import ROOT

PROGRAM = ROOT / "build" / "gpu_sanitize" / "sanitize"
MINUTES_INSTALLED, MINUTES = 8.0, 18.0  # the difference is for the build


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the options. A wrong one ends the program with status 2 and a single line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_report",
        description="Tests, benchmarks and sanitizers on a GPU, the most valuable first.",
    )
    # The default prints the usage too, which would hide the error.
    parser.error = lambda message: parser.exit(2, f"gpu-report: {message}\n")
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="default: benchmarks/results/<gpu>")
    add(
        "--minutes",
        type=float,
        help=f"for all steps; default: {MINUTES_INSTALLED:g} with --installed, else {MINUTES:g}",
    )
    add("--only", nargs="+", metavar="STEP", help=f"of {', '.join(NAMES)}; default: all")
    add("--installed", action="store_true", help="use the installed package, build nothing")
    add(
        "--rehearse",
        action="store_true",
        help="the same steps without a GPU: tiny sizes, on the CPU and in the emulator",
    )
    add(
        "--sanitize-program",
        type=Path,
        metavar="PATH",
        default=PROGRAM,
        help="the output of `make gpu-sanitize-program`; default: its usual path",
    )
    options = parser.parse_args(arguments)
    if options.minutes is None:
        options.minutes = MINUTES_INSTALLED if options.installed else MINUTES
    if not options.minutes > 0:
        parser.error(f"--minutes: expected more than 0, got {options.minutes:g}")
    options.only = [name for text in options.only or () for name in text.split(",") if name]
    for name in options.only:
        if name not in NAMES:
            parser.error(f"--only: unknown step {name!r}, known: {', '.join(NAMES)}")
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        parser.error(f"--out: {options.out} is not a folder")
    return options
