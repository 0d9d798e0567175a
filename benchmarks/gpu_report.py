"""Everything that a machine with a GPU can say: ``make gpu-report``.

Builds the extension in place against the torch of this Python, runs the tests on the GPU, a small
set of calls under compute-sanitizer, and the benchmarks. What each step printed, the result of the
benchmarks and a summary go to ``benchmarks/results/<gpu>/``; the summary is written anew after
every step, so that the report can be stopped at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from .cases import CASES

ROOT = Path(__file__).parent.parent
SANITIZED = ["tests/gpu/sanitized.py"]
# What is compared with compiled code too; that takes most of the time.
FUSIONS = [name for name in CASES if name == "dropout" or name.startswith(("bias_", "dropout_add"))]
KINDS = [name for name in CASES if name not in FUSIONS]


class Step:
    """One command: its output goes to a file, and it may take ``limit_s`` seconds."""

    def __init__(self, name: str, command: list[str], limit_s: float, **environment: str):
        self.name, self.command, self.limit_s = name, command, limit_s
        self.environment = environment

    def run(self, folder: Path) -> dict:
        """The entry of the summary; shows the last lines of a step that failed."""
        log = folder / f"{self.name}.txt"
        start = time.monotonic()
        with open(log, "w") as out:
            try:
                status = subprocess.run(
                    self.command,
                    cwd=ROOT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=self.limit_s,
                ).returncode
            except subprocess.TimeoutExpired:
                status = "out of time"
            except OSError as error:
                status = str(error)
        seconds = round(time.monotonic() - start, 1)
        lines = log.read_text(errors="replace").splitlines()
        if status != 0:
            print("\n".join(lines[-40:]))
        return {"step": self.name, "status": status, "seconds": seconds, "last": lines[-1:]}


def steps(folder: Path) -> list[Step]:
    """In the order of their worth, should time run out."""
    python = sys.executable
    benchmark = [python, "-m", "benchmarks", "--device", "cuda"]
    sanitizer = shutil.which("compute-sanitizer", path=_tool_path()) or "compute-sanitizer"
    checked = [sanitizer, "--error-exitcode", "1", "--tool"]
    return [
        Step("build", [python, "setup.py", "build_ext", "--inplace"], 300, FORCE_CUDA="1"),
        Step("tests", [python, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu"], 240),
        Step(
            "benchmarks",
            [
                *benchmark,
                *("--cases", *FUSIONS, "--dtypes", "bfloat16,float32"),
                *("--json", str(folder / "results.json"), "--plot", str(folder / "results.png")),
            ],
            240,
        ),
        Step(
            "benchmarks_of_kinds",
            [
                *benchmark,
                *("--cases", *KINDS, "--dtypes", "bfloat16,float32"),
                *("--providers", "fused,eager,copy", "--json", str(folder / "kinds.json")),
            ],
            120,
        ),
        *(
            Step(tool, [*checked, tool, python, *SANITIZED], 90, PYTHONPATH=str(ROOT))
            for tool in ("memcheck", "racecheck")
        ),
        Step(
            "tests_of_the_cpu",
            [python, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_mask.py"],
            60,
        ),
    ]


def _tool_path() -> str:
    from torch.utils.cpp_extension import CUDA_HOME

    return os.pathsep.join([f"{CUDA_HOME}/bin", os.environ.get("PATH", "")])


def main() -> int:
    """Returns 0 if every step that was run ended well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report", description=__doc__)
    parser.add_argument("--only", nargs="+", help="names of steps; default: all")
    parser.add_argument("--minutes", type=float, default=9, help="begin no step after this time")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"gpu-report: torch {torch.__version__} sees no GPU")
    gpu = re.sub(r"\W+", "_", torch.cuda.get_device_name()).strip("_").lower()
    folder = ROOT / "benchmarks" / "results" / gpu
    folder.mkdir(parents=True, exist_ok=True)

    end = time.monotonic() + 60 * options.minutes
    summary = {
        "gpu": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "steps": [],
    }
    for step in steps(folder):
        left = end - time.monotonic()
        if (options.only and step.name not in options.only) or left <= 0:
            continue
        step.limit_s = min(step.limit_s, left)
        print(f"{step.name} …", flush=True)
        result = step.run(folder)
        print(f"{step.name}: {result['status']} after {result['seconds']} s {result['last']}")
        summary["steps"].append(result)
        (folder / "report.json").write_text(json.dumps(summary, indent=1) + "\n")
        if step.name == "build" and result["status"] != 0:
            break
    return int(any(step["status"] != 0 for step in summary["steps"]))


if __name__ == "__main__":
    sys.exit(main())
