"""The error of `import fused_dropout` if the compiled extension does not fit."""

import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

EXTENSION = Path(__file__).parents[2] / "fused_dropout" / "_extension.py"


@pytest.fixture
def folder(tmp_path):
    """A package with nothing but the import of its extension, and a torch that is a version."""
    package = tmp_path / "fused_dropout"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(EXTENSION, package)
    (tmp_path / "torch.py").write_text("__version__ = '2.13.0+cu130'\n")
    return tmp_path


def imported(folder):
    """The status, and the message of the error."""
    command = [sys.executable, "-c", "import fused_dropout._extension"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr.rpartition("\nImportError: ")[2]


def put(folder, name, text=""):
    (folder / "fused_dropout" / name).write_text(text)


@pytest.mark.parametrize("version", ["2.13.0", "2.13.1+cpu", "2.13.0a0+git1"])
def test_the_same_release_is_loaded(folder, version):
    put(folder, "_C.py", f"TORCH_VERSION = '{version}'")
    assert imported(folder) == (0, "")


def test_another_torch(folder):
    put(folder, "_C.py", "TORCH_VERSION = '2.11.0'")
    status, error = imported(folder)
    assert status == 1
    assert error.startswith(
        "fused_dropout was built against torch 2.11.0, but torch 2.13.0+cu130 is running. Rebuild"
    )
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    assert error.endswith(f"    make wheel PYTHON={python} TORCH=2.13.0\n")


def test_an_extension_that_does_not_load(folder):
    put(folder, f"_C{EXTENSION_SUFFIXES[0]}", "no machine code")
    status, error = imported(folder)
    assert status == 1
    assert "does not load with torch 2.13.0+cu130: " in error
    assert "built against another torch. Rebuild" in error


def test_an_extension_for_another_python(folder):
    put(folder, "_C.cpython-38-x86_64-linux-gnu.so")
    status, error = imported(folder)
    assert status == 1
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"no compiled extension for Python {version} in " in error
    assert ", only _C.cpython-38-x86_64-linux-gnu.so. " in error


def test_no_extension(folder):
    status, error = imported(folder)
    assert status == 1
    assert f"in {folder / 'fused_dropout'}. If this is the source folder" in error
