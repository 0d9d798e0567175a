"""A pytest plugin that runs every Nth test: `-p benchmarks.gpu_report.every --every N`."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption("--every", type=int, default=1, metavar="N", help="run every Nth test")


def pytest_collection_modifyitems(config, items):
    step = config.getoption("--every")
    skipped = [item for i, item in enumerate(items) if i % step]
    if skipped:
        config.hook.pytest_deselected(items=skipped)
        items[:] = items[::step]
