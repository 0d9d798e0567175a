"""Helpers of the tests of the GPU report."""

from pathlib import Path

from benchmarks.gpu_report.steps import Settings

ROOT = Path(__file__).resolve().parents[2]

MACHINE = {
    "python": "3.12.3",
    "suffixes": [".cpython-312-x86_64-linux-gnu.so", ".abi3.so", ".so"],
    "cores": 16,
    "package": "/site-packages/fused_dropout",
    "modules": ["_C.cpython-312-x86_64-linux-gnu.so"],
    "torch": "2.11.0+cu130",
    "torch_error": None,
    "cuda": "13.0",
    "gpu": "NVIDIA H100",
    "capability": [9, 0],
    "import_error": None,
    "build_info": {"cuda": "13.0", "cuda_architectures": ["9.0"]},
}


def settings(folder, device="cuda", installed=True):
    return Settings(Path(folder), device, installed, Path("/build/sanitize"), "9.0", 16)


def measured(case, provider, milliseconds, *, dtype="bfloat16", shape="32768x4096", step=None):
    head = {"step": step or "benchmarks", "case": case, "dtype": dtype, "shape": shape}
    directions = ("fwd",) if provider == "copy" else ("fwd", "bwd")
    return [
        {**head, "provider": provider, "direction": direction, "median_ms": milliseconds}
        for direction in directions
    ]
