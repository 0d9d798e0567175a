"""Tests of the CUDA kernels on a GPU, and without one their rehearsal with the CPU kernels.

FUSED_DROPOUT_TEST_DEVICE=cpu rehearses on a machine that has a GPU. What is skipped there, or needs
what only a GPU has, says what it shows.
"""

from on_device import DEVICE, IS_ASKED_FOR


def pytest_terminal_summary(terminalreporter):
    """What tests have measured, a line each, in a form that is found by its first word."""
    if DEVICE == "cpu" and not IS_ASKED_FOR:
        return
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            for name, value in report.user_properties:
                if name == "share":
                    terminalreporter.write_line(f"share {value}")
