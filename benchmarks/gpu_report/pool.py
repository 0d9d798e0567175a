"""Runs each file of tests in its own process, a few at a time.

After an illegal memory access, every later CUDA call of the process fails. Separate processes limit
the number of tests that fail for this reason.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import results

_OPTIONS = ("-p", "no:cacheprovider", "--maxfail=30", "--tb=line")
_SUCCESS = (0, 5)  # exit statuses of pytest: all tests passed; no tests were collected


def run_file(file: str, options: list[str]) -> tuple[str, list[dict]]:
    """Returns the output of pytest and a row for each failure."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", *_OPTIONS, f"--junitxml={report}"]
        done = subprocess.run(
            [*command, file, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        rows = failures_in(report)
    if not rows and done.returncode not in _SUCCESS:
        rows = [{"failed": Path(file).name, "why": f"pytest ended with status {done.returncode}"}]
    text = done.stdout.decode(errors="replace")
    return f"== {file}, {time.monotonic() - start:.1f} s\n{text}", rows


def failures_in(report: Path) -> list[dict]:
    """Returns a row for each failure in a JUnit file, none if the file is missing or incomplete."""
    try:
        cases = ElementTree.parse(report).iter("testcase")
    except (OSError, ElementTree.ParseError):
        return []
    rows = []
    for case in cases:
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is not None:
                why = (found.get("message") or kind).splitlines() or [kind]
                name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
                rows.append({"failed": name, "why": why[0][:300]})
                break
    return rows


def main() -> int:
    """Returns 1 if a test failed. Arguments after `--` are passed to pytest."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report.pool")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rows", metavar="FILE.jsonl")
    options = parser.parse_args(arguments[:split])
    failed = 0

    with ThreadPoolExecutor(options.processes) as pool:
        runs = [pool.submit(run_file, file, arguments[split + 1 :]) for file in options.files]
        for run in runs:
            text, rows = run.result()
            print(text, flush=True)
            results.append(options.rows, rows)
            failed += len(rows)
    print(f"{len(options.files)} files, {failed} failures")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
