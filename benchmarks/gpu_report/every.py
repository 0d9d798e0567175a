"""A plugin of pytest that keeps every Nth test of a file: `-p benchmarks.gpu_report.every`."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--every", type=int, default=1, metavar="N", help="of N tests one")


def pytest_collection_modifyitems(config, items):
    step = config.getoption("--every")
    left_out = [item for i, item in enumerate(items) if i % step]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = items[::step]
