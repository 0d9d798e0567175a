"""Tests of the CUDA kernels on a GPU, and without one their rehearsal with the CPU kernels.

FUSED_DROPOUT_TEST_DEVICE=cpu rehearses every case, also on a machine that has a GPU. What needs one
says what it shows there.
"""

import random
from pathlib import Path

from tests.gpu.on_device import DEVICE, IS_ASKED_FOR

FOLDER = Path(__file__).parent
CASES = 8  # of each test, in a rehearsal that is part of all tests


def pytest_collection_modifyitems(config, items):
    """Other tests cover the CPU kernels; a rehearsal only shows that these tests run."""
    if DEVICE != "cpu" or IS_ASKED_FOR or config.getoption("--full"):
        return
    cases = {}
    for item in items:
        if item.path.parent == FOLDER:
            cases.setdefault(item.function, []).append(item)
    chosen = random.Random(0)
    left_out = set()
    for of_one in cases.values():
        left_out.update(chosen.sample(of_one, max(0, len(of_one) - CASES)))
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter):
    """Prints what tests have measured, in lines that start with "share"."""
    if DEVICE == "cpu" and not IS_ASKED_FOR:
        return
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "share":
                    terminalreporter.write_line(f"share {value}")
