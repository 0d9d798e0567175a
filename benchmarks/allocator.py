"""The two memory modes of the CPU, and the child process that runs in each.

A large tensor is by default mapped afresh for every call and returned after it, so page faults
cost more than the arithmetic. With the thresholds of the C library raised, freed memory is kept
and used again, as in the steady state of a training loop under a caching allocator. The
thresholds are read when a process starts, hence the child.
"""

from __future__ import annotations

import os
import subprocess
import sys

import torch

MODES = ("recycled", "default")
_NEVER = str(1 << 40)
_VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def run_child(mode: str, module: str, *arguments: str) -> int:
    """Runs `python -m module` in a memory mode and returns its exit status."""
    env = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    if mode == "recycled":
        env.update(dict.fromkeys(_VARIABLES, _NEVER))
    env.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes a line per use otherwise
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=env, check=False).returncode


def fill_heap(nbytes: int) -> None:
    """Gives the heap free memory whose pages exist, at most a third of the machine's.

    Without it the C library of many systems keeps asking for more: a freed block cannot serve an
    aligned request of its own size, because the search allows for the worst alignment.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch.ones(min(nbytes, machine // 3), dtype=torch.uint8)
