"""Options and fixtures of all tests."""

import os

import pytest

from tests.helpers import CAPABILITIES, forced, thread_count

# A pool of processes would be started for every process of tests.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="run the long tests, marked full, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    long = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker("full")]


@pytest.fixture(autouse=True)
def one_thread():
    """But where a test says otherwise: on a busy machine, waiting for a second thread is slow."""
    with thread_count(1):
        yield


@pytest.fixture(scope="session")
def emulated_kernels():
    """Builds the CUDA kernels for the CPU; what fails is not tried again for every test."""
    from tests.cuda_emulator import shim

    shim.library()


@pytest.fixture(params=CAPABILITIES)
def capability(request):
    """Runs the test on each instruction set that this machine has."""
    with forced(request.param):
        yield request.param


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request):
    """Runs the test with one thread and with two."""
    with thread_count(request.param):
        yield request.param
