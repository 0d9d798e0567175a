"""The two memory modes of the CPU. A child process runs in each of them.

By default, the C library maps the memory of a large tensor in every call and unmaps it afterwards,
so page faults cost more than the arithmetic. With higher thresholds it keeps freed memory and uses
it again, as a caching allocator does in a training loop. The C library reads the thresholds when a
process starts. Therefore each mode needs a process of its own.
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
    env.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints a line in each use
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=env, check=False).returncode


def fill_heap(nbytes: int) -> None:
    """Adds free memory with mapped pages to the heap, at most a third of the machine's memory.

    Otherwise many C libraries keep requesting memory from the system: they search for the size plus
    the worst alignment, so a freed chunk is too small for an aligned request of its own size.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch.ones(min(nbytes, machine // 3), dtype=torch.uint8)
