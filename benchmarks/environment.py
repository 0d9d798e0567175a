"""Versions and hardware, for the "meta" entry of a result."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import torch


def describe(command: str, device: str) -> dict:
    """Returns the "meta" entry of a result file."""
    hardware = {
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "huge_pages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
    }
    if device == "cuda":
        hardware["gpu"] = torch.cuda.get_device_name()
    return {
        "versions": _versions(),
        "hardware": hardware,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }


def _versions() -> dict:
    versions = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()),
        "cuda": torch.version.cuda,
    }
    try:
        import fused_dropout

        versions["fused_dropout"] = fused_dropout.__version__
        versions["compiler"] = fused_dropout.build_info().get("compiler")
    except Exception:  # the provider "fused" reports the error
        versions["fused_dropout"] = None
    return versions


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _first_line(path: str) -> str | None:
    try:
        return Path(path).read_text().splitlines()[0]
    except OSError:
        return None
