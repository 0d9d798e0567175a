"""The output and files of `make wheel`, with an interpreter that only records its arguments."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("wheel", ROOT / "tools" / "wheel.py")
wheel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wheel)

# Stands in for python, pip, build and pytest.
INTERPRETER = r"""#!/bin/sh
echo "$FORCE_CUDA|$TORCH_CUDA_ARCH_LIST|$*" >> "$FAKE/calls"
case "$2" in
venv) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
pip) [ ! -e "$FAKE/pip" ] || { cat "$FAKE/pip" >&2; exit 1; } ;;
build)
    cat "$FAKE/said"
    [ ! -e "$FAKE/fails" ] || exit 1
    mkdir -p "$6" && head -c "$(cat "$FAKE/size")" /dev/zero > "$6/x-cp312-linux_x86_64.whl" ;;
pytest) pwd > "$FAKE/folder" ;;
*setup_toolkit*) cat "$FAKE/missing" ;;
*) echo "$FAKE_PYTHON" ;;
esac
"""
FOR_CUDA = """fused_dropout: building with CUDA: torch 2.11.0 was built for CUDA 13.0; toolkit 13.0
fused_dropout: CUDA architectures: 8.0;9.0+PTX
"""
FOR_CPU = "fused_dropout: building for the CPU only: torch 2.13.0 was built without CUDA\n"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder that tells the interpreter in it what to answer."""
    for name in ("pyproject.toml", "requirements-dev.txt", "requirements-wheel.txt"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(wheel, "ROOT", tmp_path)
    monkeypatch.setattr(wheel, "REQUIREMENTS", tmp_path / "requirements-wheel.txt")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setenv("FAKE_PYTHON", "3.12")
    for name in ("FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "said").write_text(FOR_CUDA)
    (tmp_path / "size").write_text("1000")
    (tmp_path / "missing").write_text("\n")
    return tmp_path


def run(fake, *arguments, what="build", python=None):
    wheel.main([what, "--python", python or str(fake / "python"), *arguments])


def error(fake, *arguments, **options):
    """The one line with which the program ends."""
    with pytest.raises(SystemExit) as raised:
        run(fake, *arguments, **options)
    assert "\n" not in raised.value.code
    return raised.value.code


def calls(fake, module):
    lines = (fake / "calls").read_text().splitlines()
    return [line for line in lines if f"|-m {module} " in line]


def test_wheel(fake, capsys):
    run(fake, "--torch", "2.11.0", "--arch", "8.0;9.0+PTX")
    output = capsys.readouterr().out
    name = "dist/python3.12-torch2.11.0/x-cp312-linux_x86_64.whl"
    assert f"{name}: 0.0 MiB, for 8.0;9.0+PTX\n" in output
    assert output.endswith(f"    pip install --no-deps {name}\n")
    assert (fake / name).stat().st_size == 1000
    (line,) = calls(fake, "build")
    assert line.startswith("1|8.0;9.0+PTX|")
    assert "torch==2.11.0" in calls(fake, "pip")[0]


def test_without_arguments(fake, capsys):
    """The pinned torch; without CUDA that is a wheel for the CPU, and it says so."""
    (fake / "said").write_text(FOR_CPU)
    run(fake)
    output = capsys.readouterr().out
    pinned = wheel.pinned_torch()
    assert f"torch=={pinned}" in (fake / "requirements-dev.txt").read_text().splitlines()
    assert f"torch=={pinned} " in calls(fake, "pip")[0]
    assert FOR_CPU in output
    assert "MiB, for the CPU only\n" in output
    assert calls(fake, "build")[0].startswith("||")


def test_the_environment_is_made_once(fake):
    for _ in range(2):
        run(fake, "--torch", "2.11.0")
    assert len(calls(fake, "venv")) == len(calls(fake, "pip")) == 1
    run(fake, "--torch", "2.12.0")
    assert len(calls(fake, "venv")) == len(calls(fake, "pip")) == 2
    (fake / "requirements-wheel.txt").write_text("ninja\n")
    run(fake, "--torch", "2.12.0")
    assert len(calls(fake, "pip")) == 3


def test_objects_of_each_torch_have_a_folder(fake):
    folders = set()
    for torch in ("2.11.0", "2.12.0"):
        run(fake, "--torch", torch)
        config = fake / "build" / "wheel" / f"python3.12-torch{torch}" / "setup.cfg"
        folders.add(config.read_text())
    assert len(folders) == 2


def test_a_toolkit_from_packages(fake):
    """Where CUDA is asked for, and the machine has none."""
    (fake / "missing").write_text("cuda-toolkit[nvcc]==13.0.*\n")
    run(fake)
    assert len(calls(fake, "pip")) == 1
    run(fake, "--arch", "9.0")
    assert calls(fake, "pip")[1].endswith(" cuda-toolkit[nvcc]==13.0.*")


def test_an_interpreter_that_does_not_exist(fake):
    assert error(fake, python="python0.9").startswith("PYTHON=python0.9 cannot be run: ")


def test_a_python_that_is_too_old(fake, monkeypatch):
    monkeypatch.setenv("FAKE_PYTHON", "3.9")
    assert error(fake).endswith("/python is 3.9: fused_dropout needs 3.10 or newer")


@pytest.mark.parametrize("torch", ["2.10.1", "1.13", "newest"])
def test_a_torch_that_is_too_old(fake, torch):
    said = f"TORCH={torch}: fused_dropout needs 2.11 or newer"
    assert error(fake, "--torch", torch) == said


def test_a_torch_that_pip_does_not_find(fake):
    no_match = "No matching distribution found for torch==9.9.9"
    (fake / "pip").write_text(f"WARNING: slow\nERROR: Could not find it\nERROR: {no_match}\n")
    said = f"torch 9.9.9 cannot be installed for Python 3.12: {no_match}"
    assert error(fake, "--torch", "9.9.9") == said
    # A partial environment is not used as a complete one.
    (fake / "pip").unlink()
    run(fake, "--torch", "9.9.9")
    assert len(calls(fake, "pip")) == 2


def test_a_refused_build(fake):
    (fake / "fails").touch()
    refusal = "fused_dropout: FORCE_CUDA is set, but no CUDA toolkit was found (set CUDA_HOME)"
    (fake / "said").write_text(f"Traceback\n{refusal}\nERROR Backend subprocess exited\n")
    assert error(fake, "--arch", "9.0") == refusal


def test_a_failed_build_shows_its_log_and_leaves_no_older_wheel(fake):
    run(fake)
    (fake / "fails").touch()
    (fake / "said").write_text(f"{FOR_CUDA}error: it does not compile\n")
    with pytest.raises(SystemExit) as raised:
        run(fake)
    assert "error: it does not compile\n" in raised.value.code
    assert not list(fake.glob("dist/*/*"))


@pytest.mark.parametrize(("architectures", "allowed"), [("9.0", 50), ("8.0;9.0+PTX", 100)])
def test_size(fake, architectures, allowed):
    (fake / "said").write_text(f"fused_dropout: CUDA architectures: {architectures}\n")
    (fake / "size").write_text(str(allowed << 20))
    run(fake)
    (fake / "size").write_text(str((allowed << 20) + 1))
    assert error(fake) == "that is more than 50 MiB for each architecture"


def test_tests_run_outside_the_source_folder(fake):
    assert "run `make wheel`" in error(fake, what="test")
    run(fake)
    (fake / "tests").mkdir()
    (fake / "tests" / "test_a.py").touch()
    with pytest.raises(SystemExit) as raised:
        run(fake, what="test")
    assert raised.value.code == 0
    assert "--force-reinstall" in calls(fake, "pip")[-1]
    folder = Path((fake / "folder").read_text().strip())
    assert not list(folder.iterdir())
    assert calls(fake, "pytest")[0].endswith(f" {fake}/tests")
    with pytest.raises(SystemExit):
        run(fake, "-x", "tests/test_a.py::test_b", what="test")
    assert calls(fake, "pytest")[1].endswith(f" -x {fake}/tests/test_a.py::test_b")
