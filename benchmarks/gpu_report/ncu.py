"""Hardware counters of a few kernels, from Nsight Compute."""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ..text import align
from . import results
from .outcome import NOT_RUN

METRICS = {
    "gpu__time_duration.sum": "time",
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": "DRAM %",
    "dram__bytes_read.sum": "DRAM read",
    "dram__bytes_write.sum": "DRAM written",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue active %",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "active warps %",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": "long scoreboard",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": "barrier",
    "l1tex__average_t_sectors_per_request_pipe_lsu_mem_global_op_st.ratio": "L1 sectors/store",
    "lts__t_sectors_srcunit_tex_op_write.sum": "L2 sectors stored",
    "lts__t_requests_srcunit_tex_op_write.sum": "L2 stores",
    "smsp__inst_executed.sum": "instructions",
}
LABEL = "gpu_report="  # prefix of the names of the NVTX ranges
_KERNEL = "regex:.*fused_dropout::cuda.*"


def find() -> str | None:
    """Returns the path of ncu, or None."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [f"{home}/bin" for home in homes if home]
    folders += map(str, sorted(Path("/opt/nvidia/nsight-compute").glob("*"), reverse=True))
    return shutil.which("ncu") or shutil.which("ncu", path=os.pathsep.join(folders))


def rows_of(text: str) -> list[dict]:
    """Parses the output of `ncu --csv --page raw`: rows of label, kernel, metric, value and unit.

    Messages of ncu precede the table. The second line of the table has the units.
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    table = csv.DictReader(line for line in lines[first:] if line.startswith('"'))
    units = next(table, {})
    rows = []
    for line in table:
        label = _label(line)
        kernel = _short(line.get("Kernel Name") or "")
        values = {metric: _number(line.get(metric)) for metric in METRICS}
        for metric, value in values.items():
            if value is not None:
                unit = units.get(metric) or ""
                rows.append(
                    {"label": label, "kernel": kernel, "metric": metric, "value": value}
                    | ({"unit": unit} if unit else {})
                )
    return rows


def _label(line: dict[str, str]) -> str:
    """Returns the range in which a kernel was launched. Its column depends on the kind of range."""
    for cell in line.values():
        found = re.search(rf"{LABEL}([\w. ]+)", cell or "")
        if found:
            return found[1].strip()
    return "?"


def _short(kernel: str) -> str:
    """Returns the name of the kernel without namespace and arguments."""
    found = re.search(r"(\w+_kernel)\b", kernel)
    return found[1] if found else kernel[:80]


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


def table(rows: list[dict]) -> str:
    """Formats a line for each kernel."""
    kernels: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        kernels.setdefault((row["label"], row["kernel"]), {})[row["metric"]] = row["value"]
    lines = [("call", "kernel", *METRICS.values(), "L2 sectors/store")]
    for (label, kernel), values in kernels.items():
        stores = values.get("lts__t_requests_srcunit_tex_op_write.sum")
        sectors = values.get("lts__t_sectors_srcunit_tex_op_write.sum")
        cells = [f"{values[m]:.4g}" if m in values else "-" for m in METRICS]
        ratio = f"{sectors / stores:.3g}" if stores and sectors is not None else "-"
        lines.append((label, kernel, *cells, ratio))
    return align(lines, 2)


def main() -> int:
    """Returns 0, `NOT_RUN` if ncu cannot be used, or another status after a failure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report.ncu")
    parser.add_argument("--csv", required=True, metavar="FILE", help="for the output of ncu")
    parser.add_argument("--rows", metavar="FILE.jsonl")
    options = parser.parse_args()
    ncu = find()
    if ncu is None:
        print("ncu was not found")
        return NOT_RUN
    target = [sys.executable, "-m", "benchmarks.gpu_report.ncu_target"]
    command = [
        *(ncu, "--clock-control", "none", "--nvtx", "--csv", "--page", "raw"),
        *("--kernel-name-base", "demangled", "--kernel-name", _KERNEL),
        *("--print-kernel-base", "demangled", "--print-units", "base"),
        *("--metrics", ",".join(METRICS), "--log-file", options.csv),
    ]
    print(" ".join(command), flush=True)
    status = subprocess.run([*command, *target]).returncode
    file = Path(options.csv)
    text = file.read_text(errors="replace") if file.exists() else ""
    rows = rows_of(text)
    results.append(options.rows, rows)
    if rows:
        print(table(rows))
        return status
    print(text[:4000])
    if "ERR_NVGPUCTRPERM" in text:
        print("ncu may not read the performance counters of this GPU")
        return NOT_RUN
    return status or 1


if __name__ == "__main__":
    sys.exit(main())
