"""Runs a command in its own process group, and ends all processes of the group afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

_GRACE_S = 3.0  # between SIGTERM and SIGKILL


def run(
    command: list[str], *, limit_s: float, log: IO, cwd: Path, environment: dict[str, str]
) -> int | None:
    """Returns the exit status, or None if the command took longer than `limit_s` seconds.

    The output goes to `log`. When this function returns or raises, all processes of the group have
    ended. If the command did not end by itself, all of its descendants have ended too.
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
        # A descendant with its own session can be found while its ancestors are running.
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
            continue  # the processes have already ended


def _processes() -> list[tuple[int, int, int, str]]:
    """Returns (pid, pid of the parent, process group, state) of all processes."""
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
    """Returns the process groups of all descendants."""
    processes, below = _processes(), {pid}
    while True:
        more = {number for number, parent, *_ in processes if parent in below} - below
        if not more:
            return {group for number, _, group, _ in processes if number in below}
        below |= more
