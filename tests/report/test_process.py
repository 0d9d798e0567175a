"""A step runs in a process group of its own; no process survives it."""

import os
import sys
import time

import pytest

from benchmarks.gpu_report import process
from tests.report.stubs import ROOT

# Writes the number of its grandchild, which ignores SIGTERM, and waits for it.
PARENT = """
import subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
child += "print('up', flush=True); time.sleep(600)"
grandchild = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, {options})
grandchild.stdout.readline()
open({file!r}, "w").write(str(grandchild.pid))
{then}
"""


@pytest.fixture(autouse=True)
def short_grace(monkeypatch):
    monkeypatch.setattr(process, "_GRACE_S", 0.2)


def run(code, log, limit_s=30.0):
    with open(log, "w") as out:
        return process.run(
            [sys.executable, "-c", code],
            limit_s=limit_s,
            log=out,
            cwd=ROOT,
            environment=dict(os.environ),
        )


def is_alive(pid):
    """A zombie process counts as dead."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone_soon(pid):
    end = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_alive(pid)


def test_status_and_output(tmp_path):
    log = tmp_path / "log"
    assert run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", log) == 3
    assert sorted(log.read_text().split()) == ["err", "out"]


@pytest.mark.parametrize("options", ["", "start_new_session=True"])
def test_no_grandchild_survives_a_time_out(tmp_path, options):
    file = tmp_path / "pid"
    code = PARENT.format(file=str(file), options=options, then="time.sleep(600)")
    # The child is given the time to start its own, however busy the machine is.
    limit = 3.0
    assert run(code, tmp_path / "log", limit) is None
    assert file.exists(), "the grandchild was not up in time"
    assert gone_soon(int(file.read_text()))


def test_no_grandchild_survives_a_child_that_ends_by_itself(tmp_path):
    file = tmp_path / "pid"
    code = PARENT.format(file=str(file), options="", then="sys.exit(0)")
    assert run(code, tmp_path / "log") == 0
    assert gone_soon(int(file.read_text()))


def test_no_grandchild_survives_an_exception(tmp_path, monkeypatch):
    file = tmp_path / "pid"
    code = PARENT.format(file=str(file), options="", then="time.sleep(600)")

    class Interrupted(process.subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            while not (file.exists() and file.read_text()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(process.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(code, tmp_path / "log")
    assert gone_soon(int(file.read_text()))
