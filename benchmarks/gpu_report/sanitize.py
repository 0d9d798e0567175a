"""Runs the program of tests/cuda_emulator/sanitize.cpp under the tools of compute-sanitizer.

If the program does not exist, it is compiled with nvcc. `--script` runs a Python script under
memcheck instead, without torch's caching allocator, so that every out-of-bounds access is detected.
With `--emulated` both run on the CPU without a tool, and the program uses the emulator of
tests/cuda_emulator.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import results
from .outcome import NOT_RUN

TOOLS = ("memcheck", "racecheck", "initcheck")
_START_S = 8  # additional time of a tool, for its start and one call


def find() -> str | None:
    """Returns the path of compute-sanitizer, or None."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [f"{home}/{sub}" for home in homes if home for sub in ("bin", "compute-sanitizer")]
    tool = "compute-sanitizer"
    return shutil.which(tool) or shutil.which(tool, path=os.pathsep.join(folders))


def compiled(program: Path, architecture: str) -> Path | None:
    """Returns the program, compiled if it does not exist, or None if that fails."""
    if program.exists():
        return program
    print(f"there is no {program}: compiling it", flush=True)
    build = Path("tools", "cuda_check", "sanitize_program.py")
    command = [sys.executable, str(build), "--arch", architecture, "--output", str(program)]
    return program if subprocess.run(command).returncode == 0 else None


def under(sanitizer: str, tool: str) -> list[str]:
    """Returns the prefix of a command that runs under a tool."""
    return [sanitizer, "--tool", tool, "--error-exitcode", "1", "--report-api-errors", "no"]


def run_script(prefix: list[str], script: Path) -> int:
    """Runs a script that imports the package. Returns the exit status."""
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": path}
    return subprocess.run([*prefix, sys.executable, str(script)], env=environment).returncode


def run(tool: str, sanitizer: str, program: Path, seconds: float) -> tuple[str, list[dict]]:
    """Runs the program under a tool. Returns the output and a row for a failure."""
    command = [*under(sanitizer, tool), str(program), "--seconds", str(seconds)]
    print(" ".join(command), flush=True)
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + _START_S,
        )
        status, text = done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        status, text = "none: out of time", (error.stdout or b"").decode(errors="replace")
    if status == 0:
        return text, []
    lines = [line for line in text.splitlines() if "=========" in line and len(line) > 12]
    # The first line is the name of the tool.
    why = (lines[1:] or text.splitlines() or [""])[0].strip("= ")
    return text, [{"failed": tool, "why": f"status {status}: {why}"[:300]}]


def emulated() -> int:
    """Runs some of the calls on the CPU."""
    from tests.cuda_emulator import shim

    # The program shares object files with the library of the tests.
    program = shim.build("kernels.sanitize", "sanitize.cpp")
    return subprocess.run([program, "--every", "20"]).returncode


def main() -> int:
    """Returns 1 if a tool found an error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report.sanitize")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--program", type=Path)
    what.add_argument("--script", type=Path)
    parser.add_argument("--arch", default="9.0", help="architecture to compile for")
    parser.add_argument(
        "--seconds", type=float, default=12, help="time of the calls under each tool"
    )
    parser.add_argument("--rows", metavar="FILE.jsonl")
    parser.add_argument("--emulated", action="store_true")
    options = parser.parse_args()
    if options.emulated:
        return run_script([], options.script) if options.script else emulated()
    sanitizer = find()
    if sanitizer is None:
        print("compute-sanitizer was not found")
        return NOT_RUN
    if options.script:
        return run_script(under(sanitizer, "memcheck"), options.script)
    program = compiled(options.program, options.arch)
    if program is None:
        print(f"there is no {options.program}: make gpu-sanitize-program where there is nvcc")
        return NOT_RUN
    failed = 0
    for tool in TOOLS:
        text, rows = run(tool, sanitizer, program, options.seconds)
        print(text, flush=True)
        results.append(options.rows, rows)
        failed += len(rows)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
