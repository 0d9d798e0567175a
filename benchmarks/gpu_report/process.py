"""Runs a command in a process group of its own, of which nothing survives."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

_GRACE_S = 3.0  # between the request to end and the end


def run(
    command: list[str], *, limit_s: float, log: IO, cwd: Path, environment: dict[str, str]
) -> int | None:
    """The exit status, or None if the command took longer than `limit_s` seconds.

    Its output goes to `log`. When this function returns, or is left by an exception, nothing of
    the process group is left, whether the command ended by itself or not; and if it did not, none
    of its descendants.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(max(limit_s, 0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    groups = {process.pid}
    if process.poll() is None:
        # What has started a session of its own is a descendant, as long as there is a chain to it.
        groups |= _groups_below(process.pid) - {os.getpgrp()}
    _signal(groups, signal.SIGTERM)
    end = time.monotonic() + _GRACE_S
    while time.monotonic() < end and any(map(_has_living, groups)):
        process.poll()
        time.sleep(0.02)
    _signal(groups, signal.SIGKILL)
    process.wait()


def _signal(groups: set[int], number: int) -> None:
    for group in groups:
        try:
            os.killpg(group, number)
        except (ProcessLookupError, PermissionError):
            continue  # they have ended meanwhile


def _processes() -> list[tuple[int, int, int, str]]:
    """Of all processes: number, that of the parent, process group and state."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in brackets, may contain spaces and brackets.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found.append((int(folder.name), int(fields[1]), int(fields[2]), fields[0]))
    return found


def _has_living(group: int) -> bool:
    return any(one == group and state not in "ZX" for _, _, one, state in _processes())


def _groups_below(pid: int) -> set[int]:
    """The process groups of all descendants."""
    processes, below = _processes(), {pid}
    while True:
        more = {number for number, parent, *_ in processes if parent in below} - below
        if not more:
            return {group for number, _, group, _ in processes if number in below}
        below |= more
