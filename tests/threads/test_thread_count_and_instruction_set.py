"""Kernels run with the requested number of threads and the requested instruction set."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import _C
from tests.helpers import CAPABILITIES, forced, state, thread_count

PACKAGE = Path(fd.__file__).resolve().parents[1]
ROOT = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- threads


def cpu_seconds():
    """Of each thread of this process. The fields follow the name, which may contain spaces."""
    tick = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds[task.name] = (int(fields[11]) + int(fields[12])) / tick
    return seconds


def busy_threads(work, duration=0.4):
    """How many threads share the work: those with a fifth of the CPU time of the busiest one."""
    before = cpu_seconds()
    end = time.perf_counter() + duration
    while time.perf_counter() < end:
        work()
    spent = [seconds - before.get(task, 0) for task, seconds in cpu_seconds().items()]
    return sum(seconds > max(spent) / 5 for seconds in spent)


def forward():
    x = torch.ones(1 << 20)
    return lambda: FF.bias_act_dropout(x, None, 0.3)


def mask():
    return lambda: FF.dropout_mask((1 << 22,), 0.3, state())


def backward():
    """Of the operator itself: autograd would add its own work on `dy`."""
    dy = torch.ones(1 << 20)

    def run():
        torch.ops.fused_dropout.bias_act_dropout_backward(
            *(dy, dy, None, state(), 0.3, None, "gelu", None, None, -1, "inverted", True, []),
            *(None, 0, False, [1], torch.float32, None, [True, False]),
        )

    return run


def bias_gradient(shape):
    def start():
        dy = torch.ones(shape)

        def run():
            torch.ops.fused_dropout.bias_act_dropout_backward(
                *(dy, dy, None, state(), 0.3, None, "gelu", None, None, -1, "inverted", True, []),
                *(None, 0, False, list(dy.stride()), dy.dtype, dy.dtype, [True, True]),
            )

        return run

    return start


WORK = {
    "forward": forward,
    "mask": mask,
    "backward": backward,
    "bias gradient of many rows": bias_gradient((8192, 128)),
    "bias gradient of few rows": bias_gradient((4, 1 << 18)),
}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.parametrize("start", WORK.values(), ids=WORK)
def test_as_many_threads_run_as_are_set(start):
    """Without OpenMP at compile and link time `parallel_for` is serial, and nothing says so."""
    work = start()
    for count in (1, 2):
        with thread_count(count):
            assert busy_threads(work) == count


def test_the_build_says_that_it_has_openmp():
    assert fd.build_info()["openmp"]


# ---------------------------------------------------------------- instruction sets


def fingerprint():
    """Of results whose last bits depend on the instruction set: the baseline has no FMA."""
    x = torch.arange(-6000, 6001) / 1024  # exact, whatever set torch itself uses
    y = FF.bias_act_dropout(x, None, 0.3, "gelu", rng_state=state())
    return hashlib.sha256(y.numpy().tobytes()).hexdigest()


def test_a_forced_set_is_in_use():
    before = fd.build_info()["cpu_capability"]
    for name in CAPABILITIES:
        with forced(name):
            assert fd.build_info()["cpu_capability"] == name
    assert fd.build_info()["cpu_capability"] == before
    assert CAPABILITIES[-1] == "baseline"


def test_an_unknown_set_is_an_error():
    before = fd.build_info()["cpu_capability"]
    with pytest.raises(ValueError, match=r"'sse9' is not available.*baseline"):
        _C.force_cpu_capability("sse9")
    assert fd.build_info()["cpu_capability"] == before


SCRIPT = """
import fused_dropout as fd
from tests.threads.test_thread_count_and_instruction_set import fingerprint
print(fd.build_info()["cpu_capability"], fingerprint())
"""
# What a new process is told, and the set that it then has to use.
ENVIRONMENTS = [
    *(({"FUSED_DROPOUT_CPU_CAPABILITY": name}, name) for name in CAPABILITIES),
    ({"ATEN_CPU_CAPABILITY": "default"}, "baseline"),
    ({"FUSED_DROPOUT_CPU_CAPABILITY": "sse9"}, None),
]
MORE_ENVIRONMENTS = [
    ({}, CAPABILITIES[0]),
    *(({"ATEN_CPU_CAPABILITY": name}, name) for name in CAPABILITIES if name == "avx2"),
    # The more specific variable wins.
    (
        {"ATEN_CPU_CAPABILITY": "default", "FUSED_DROPOUT_CPU_CAPABILITY": CAPABILITIES[0]},
        CAPABILITIES[0],
    ),
]


def start_process(variables):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ATEN_CPU_CAPABILITY", "FUSED_DROPOUT_CPU_CAPABILITY")
    }
    path = [str(PACKAGE), str(ROOT), environment.get("PYTHONPATH", "")]
    environment |= variables | {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    "environments",
    [
        pytest.param(ENVIRONMENTS, id="some"),
        pytest.param(MORE_ENVIRONMENTS, id="more", marks=pytest.mark.full),
    ],
)
def test_environment_variables(environments):
    running = [start_process(variables) for variables, _ in environments]
    for (variables, expected), process in zip(environments, running, strict=True):
        output, errors = process.communicate(timeout=300)
        if expected is None:
            assert process.returncode != 0
            assert "the CPU capability 'sse9' is not available here" in errors
            assert all(name in errors for name in CAPABILITIES)
            continue
        assert process.returncode == 0, errors
        name, digest = output.split()
        assert name == expected, variables
        with forced(expected):
            assert digest == fingerprint(), variables


def test_the_baseline_differs_in_the_last_bits():
    """Otherwise the fingerprints above would prove nothing."""
    digests = {}
    for name in CAPABILITIES:
        with forced(name):
            digests[name] = fingerprint()
    assert len(CAPABILITIES) == 1 or digests["baseline"] != digests[CAPABILITIES[0]]
