"""Which CUDA toolkit the build chooses, on machines made of a few files."""

import importlib.util
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "setup_toolkit.py"
spec = importlib.util.spec_from_file_location("setup_toolkit", SOURCE)
setup_toolkit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(setup_toolkit)

COMMAND = 'pip install "cuda-toolkit[nvcc,nvvm,crt,cccl,cudart]==13.2.*"'


def make_program(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def make_toolkit(home, version="13.2", headers=None):
    """A folder that has what is looked for: nvcc says its version, and the headers theirs."""
    say = f"echo 'Cuda compilation tools, release {version}, V{version}.86'"
    make_program(home / "bin" / "nvcc", say)
    for part in setup_toolkit.PARTS.values():
        file = home / part
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    major, minor = map(int, (headers or version).split("."))
    number = 1000 * major + 10 * minor
    (home / "include" / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {number}\n")
    (home / "lib").mkdir()
    (home / "lib" / "libcudart.so.13").touch()
    return home


class Machine:
    """Where the parts of a machine lie, and what is found there."""

    def __init__(self, folder):
        self.system = folder / "cuda"
        self.site = folder / "site-packages"
        self.packages = self.site / "nvidia" / "cu13"
        self.bin = folder / "bin"
        self.bin.mkdir()

    def find(self, cuda="13.2", **environ):
        environ = {"PATH": str(self.bin), **{name: str(path) for name, path in environ.items()}}
        return setup_toolkit.find(cuda, environ, [str(self.site)], str(self.system))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_system_toolkit(machine):
    make_toolkit(machine.system, "13.0")
    assert machine.find() == (str(machine.system), f"toolkit 13.0 in {machine.system}")


def test_packages(machine):
    make_toolkit(machine.packages)
    assert machine.find() == (str(machine.packages), f"toolkit 13.2 in {machine.packages}")


def test_system_toolkit_comes_before_packages(machine):
    make_toolkit(machine.system)
    make_toolkit(machine.packages)
    assert machine.find()[0] == str(machine.system)


def test_packages_come_before_a_system_toolkit_that_does_not_fit(machine):
    make_toolkit(machine.system, "12.4")
    make_toolkit(machine.packages)
    assert machine.find()[0] == str(machine.packages)


def test_nvcc_on_the_path_comes_first(machine, tmp_path):
    make_toolkit(machine.system)
    make_toolkit(machine.packages)
    other = make_toolkit(tmp_path / "other")
    assert machine.find(PATH=other / "bin")[0] == str(other)


def test_nvcc_on_the_path_as_a_link(machine, tmp_path):
    other = make_toolkit(tmp_path / "other")
    (machine.bin / "nvcc").symlink_to(other / "bin" / "nvcc")
    assert machine.find()[0] == str(other)


def test_nvcc_on_the_path_as_a_script(machine):
    """The folder above it is no toolkit."""
    make_toolkit(machine.system)
    make_program(machine.bin / "nvcc", f'exec {machine.system}/bin/nvcc "$@"')
    assert machine.find()[0] == str(machine.system)


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_named_folder_decides(machine, tmp_path, name):
    make_toolkit(machine.system)
    make_toolkit(machine.packages)
    named = make_toolkit(tmp_path / "named")
    assert machine.find(**{name: named})[0] == str(named)


def test_a_named_folder_decides_even_where_others_would_fit(machine, tmp_path):
    make_toolkit(machine.system)
    make_toolkit(machine.packages)
    other = make_toolkit(tmp_path / "other", "12.4")
    home, reason = machine.find(CUDA_HOME=other)
    assert home is None
    assert reason == (
        f"the toolkit in {other} is 12.4: the major versions have to be the same (set CUDA_HOME)"
    )


def test_a_named_folder_that_does_not_exist(machine, tmp_path):
    said = f"nvcc in {tmp_path / 'missing'} cannot be run (set CUDA_HOME)"
    assert machine.find(CUDA_HOME=tmp_path / "missing") == (None, said)


def test_none(machine):
    assert machine.find() == (None, f"no CUDA toolkit was found (set CUDA_HOME, or {COMMAND})")


def test_there_are_no_packages_for_cuda_12(machine):
    assert machine.find("12.8") == (None, "no CUDA toolkit was found (set CUDA_HOME)")


def test_another_major_version(machine):
    make_toolkit(machine.system, "12.4")
    home, reason = machine.find()
    assert home is None
    assert reason == (
        f"the toolkit in {machine.system} is 12.4: the major versions have to be the same "
        f"(set CUDA_HOME, or {COMMAND})"
    )


def test_another_minor_version(machine):
    make_toolkit(machine.system, "13.0")
    assert machine.find("13.2")[0] == str(machine.system)


def test_no_headers(machine):
    make_toolkit(machine.system)
    (machine.system / "include" / "cuda_runtime_api.h").unlink()
    home, reason = machine.find()
    assert home is None
    assert reason.startswith(f"the CUDA toolkit in {machine.system} has no headers (")


@pytest.mark.parametrize("part", ["nvvm", "crt", "cccl", "cudart"])
def test_packages_that_lack_a_part(machine, part):
    make_toolkit(machine.packages)
    (machine.packages / setup_toolkit.PARTS[part]).unlink()
    home, reason = machine.find()
    assert home is None
    assert reason.startswith(f"the CUDA packages in {machine.packages} lack {part} (")
    assert COMMAND in reason


def test_headers_of_torch_beside_a_newer_nvcc(machine):
    """What `pip install nvidia-cuda-nvcc` makes: CUDA's own headers refuse the pair."""
    make_toolkit(machine.packages, "13.5", headers="13.2")
    home, reason = machine.find()
    assert home is None
    said = f"nvcc in {machine.packages} is 13.5, but the headers there are 13.2 ("
    assert reason.startswith(said)
    assert COMMAND in reason


def test_the_linker_finds_the_library_of_packages(machine, tmp_path):
    make_toolkit(machine.packages)
    for _ in range(2):
        (folder,) = setup_toolkit.linkable(machine.packages, tmp_path / "link")
        library = machine.packages / "lib" / "libcudart.so.13"
        assert Path(folder, "libcudart.so").resolve() == library


def test_the_library_of_a_toolkit_needs_no_link(machine, tmp_path):
    make_toolkit(machine.system)
    (machine.system / "lib" / "libcudart.so").touch()
    assert setup_toolkit.linkable(machine.system, tmp_path / "link") == []
    assert not (tmp_path / "link").exists()
