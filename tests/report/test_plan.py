"""The steps of a report: their order and their time limits."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks.cases import CASES
from benchmarks.gpu_report import steps as plan
from benchmarks.gpu_report.limits import deadlines
from benchmarks.gpu_report.options import MINUTES_INSTALLED
from tests.report.stubs import ROOT, settings


def commands(folder, **options):
    return {step.name: step.commands for step in plan.steps(settings(folder, **options))}


def test_order(tmp_path):
    names = [step.name for step in plan.steps(settings(tmp_path, installed=False))]
    assert names == list(plan.NAMES)
    for options in ({"installed": True}, {"device": "cpu", "installed": False}):
        assert list(commands(tmp_path, **options)) == list(plan.NAMES[1:])


def test_limits_fit_the_time(tmp_path):
    limits = [step.limit_s for step in plan.steps(settings(tmp_path))]
    assert sum(limits) <= 60 * MINUTES_INSTALLED


@pytest.mark.parametrize(
    ("limits", "seconds", "expected"),
    [
        ([10, 20, 30], 60, [10, 30, 60]),
        ([10, 20, 30], 120, [20, 60, 120]),  # more time: more for each
        ([10, 20, 30], 25, [10, 25, 25]),  # less: the first ones come first
        ([], 60, []),
    ],
)
def test_deadlines(limits, seconds, expected):
    assert deadlines(limits, seconds) == expected


def test_nothing_is_reported_without_the_first_steps(tmp_path):
    found = plan.steps(settings(tmp_path, installed=False))
    assert [step.name for step in found if step.needed] == ["build", "facts"]


def test_every_case_is_measured_once():
    assert sorted([*plan.CORE, *plan.KINDS]) == sorted(CASES)
    assert set(plan.COMPILED) < set(plan.CORE)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_plans_are_for_the_device(tmp_path, device):
    commands(tmp_path, device=device)
    for name in ("benchmarks", "compile", "kinds"):
        written = json.loads((tmp_path / f"{name}_plan.json").read_text())
        assert written["device"] == device and written["head"] == {"step": name}
        elements = max(unit["rows"] * unit["cols"] for unit in written["units"])
        assert elements == (1 << 27 if device == "cuda" else 1 << 14)


def test_sixteen_bits_come_first(tmp_path):
    commands(tmp_path)
    units = json.loads((tmp_path / "benchmarks_plan.json").read_text())["units"]
    dtypes = [unit["dtype"] for unit in units]
    assert dtypes == sorted(dtypes)  # bfloat16, float32


def test_every_test_of_the_gpu_is_in_one_step(tmp_path):
    files = [f"tests/gpu/{file.name}" for file in (ROOT / "tests" / "gpu").glob("test_*.py")]
    words = [word for step in commands(tmp_path).values() for command in step for word in command]
    for file in files:
        # Of this file the last step runs the tests that the first leaves out.
        assert words.count(file) == (2 if file.endswith("random.py") else 1), file


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_modules_and_files_of_commands_exist(tmp_path, device):
    for found in commands(tmp_path, device=device, installed=False).values():
        for command in found:
            words = command[1:]
            if words[0] == "-m":
                assert importlib.util.find_spec(words[1]) is not None, words
            for word in words:
                if word.startswith(("tests/", "setup.py")):
                    assert Path(ROOT, word).exists(), word
