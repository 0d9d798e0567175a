"""Processes of the coverage run: what goes wrong in one does not end the run."""

import os
import signal
import time

from tools.coverage.workers import run_each


def _work(name):
    if name == "exception":
        raise ValueError("a reason")
    if name == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "hang":
        time.sleep(60)
    return {"name": name, "process": os.getpid()}


def test_each_name_has_a_result_of_its_own():
    names = ["a", "exception", "crash", "hang", "b"]
    start = time.monotonic()
    results = {name: result for name, _, result in run_each(_work, names, jobs=2, timeout=2)}
    assert time.monotonic() - start < 30
    assert results.keys() == set(names)
    assert results["a"]["name"] == "a" and results["b"]["name"] == "b"
    assert len({os.getpid(), results["a"]["process"], results["b"]["process"]}) == 3
    assert results["exception"]["error"].startswith("ValueError: a reason")
    assert __file__ in results["exception"]["error"]
    assert str(-signal.SIGKILL) in results["crash"]["error"]
    assert "not ready after 2" in results["hang"]["error"]
