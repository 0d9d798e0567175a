"""The command line; the process that the user starts needs neither torch nor a build."""

import argparse
import os
import subprocess
import sys

import pytest

from benchmarks.gpu_report import __main__ as report
from benchmarks.gpu_report import options, workspace
from tests.report.stubs import MACHINE, ROOT

# Any import of these ends in an exception, as where nothing is built.
HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "fused_dropout", "tqdm", "matplotlib"):
            raise ModuleNotFoundError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
"""


def test_it_starts_where_nothing_is_built():
    code = f"{HIDDEN}\nfrom benchmarks.gpu_report.__main__ import main\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--rehearse" in done.stdout


def test_without_a_gpu_it_says_so_in_one_line():
    """Also on a machine with one."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu_report"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "sees no GPU" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "tests,nonsense"], "--only: unknown step 'nonsense', known: build, facts, tes"),
        (["--minutes", "0"], "--minutes: expected more than 0, got 0"),
        (["--minutes", "nan"], "--minutes: expected more than 0, got nan"),
        (["--minutes", "soon"], "argument --minutes: invalid float value: 'soon'"),
        (["--out", __file__], "test_command.py is not a folder"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_bad_options(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        options.parse(words)
    text = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in text and len(text.splitlines()) == 1


def test_good_options():
    found = options.parse(["--only", "tests,ncu", "facts", "--installed"])
    assert found.only == ["tests", "ncu", "facts"]
    assert found.minutes == options.MINUTES_INSTALLED < options.parse([]).minutes


@pytest.mark.parametrize(
    ("changes", "installed", "said"),
    [
        ({}, True, None),
        ({"gpu": None}, True, "sees no GPU"),
        ({"torch": None, "torch_error": "ModuleNotFoundError: torch"}, True, "torch cannot be imp"),
        ({"error": "torch did not start within 120 s"}, True, "torch did not start"),
        ({"modules": ["_C.cpython-311.so"]}, True, "another Python"),
        ({"modules": ["_C.cpython-311.so"]}, False, None),  # will be built
    ],
)
def test_problems(changes, installed, said):
    wanted = argparse.Namespace(rehearse=False, installed=installed)
    problem = report.problem_of({**MACHINE, **changes}, wanted)
    assert problem is None if said is None else said in problem


def test_an_installed_package_is_not_hidden_by_the_sources(tmp_path, monkeypatch):
    """In the folder of the steps there is everything but the package; PYTHONPATH has no sources."""
    workspace.fill(tmp_path)
    assert not (tmp_path / "fused_dropout").exists()
    for name in ("tests/gpu/conftest.py", "csrc/math/philox.h", "pyproject.toml", "examples/lm.py"):
        assert (tmp_path / name).exists(), name
    wheel, sources = tmp_path / "wheel", tmp_path / "sources"
    for folder in (wheel, sources):
        (folder / "fused_dropout").mkdir(parents=True)
    (wheel / "fused_dropout" / "_C.abi3.so").touch()
    entries = [str(sources), str(wheel), ".", "", "/nowhere"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    assert workspace.environment(True)["PYTHONPATH"] == os.pathsep.join([str(wheel), "/nowhere"])
    assert workspace.environment(False)["PYTHONPATH"] == os.pathsep.join(entries)
