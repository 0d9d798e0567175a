"""Builds and tests a wheel for another machine: for its Python, torch and GPUs. Needs no GPU.

`make wheel` and `make wheel-test` call this program. It uses only the standard library.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Prints the requirement of a CUDA toolkit for the torch of an environment, if the machine has none.
MISSING_TOOLKIT = """
import os, setup_toolkit, torch
cuda = torch.version.cuda
missing = cuda and not setup_toolkit.named(os.environ) and not setup_toolkit.find(cuda)[0]
print(missing and setup_toolkit.requirement(cuda) or "")
"""
REQUIREMENTS = ROOT / "requirements-wheel.txt"
PIP_INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
MEBIBYTES = 50  # largest size of a wheel for each architecture


def numbers(version):
    """Returns the compared numbers of a version: (2, 11) for "2.11.0+cu130"."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def lowest(name):
    """Returns the lowest version of "torch" or "python" that pyproject.toml supports."""
    pattern = {"torch": r'"torch>=([\d.]+)"', "python": r'requires-python = ">=([\d.]+)"'}[name]
    return re.search(pattern, (ROOT / "pyproject.toml").read_text())[1]


def pinned_torch():
    return re.search(r"^torch==(\S+)", (ROOT / "requirements-dev.txt").read_text(), re.M)[1]


def python_version(python):
    """Returns the version of an interpreter, such as "3.12". Exits if it is not supported."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "").strip().splitlines() or [str(error)]
        sys.exit(f"PYTHON={python} cannot be run: {said[0]}")
    version = done.stdout.strip()
    if numbers(version) < numbers(lowest("python")):
        sys.exit(f"PYTHON={python} is {version}: fused_dropout needs {lowest('python')} or newer")
    return version


class Environment:
    """A virtual environment with one torch, and the wheels that are built in it."""

    def __init__(self, python, torch):
        self.torch = torch or pinned_torch()
        if not numbers(self.torch) or numbers(self.torch) < numbers(lowest("torch")):
            sys.exit(f"TORCH={self.torch}: fused_dropout needs {lowest('torch')} or newer")
        self.base = python
        self.version = python_version(python)
        self.name = f"python{self.version}-torch{self.torch}"
        self.folder = ROOT / "build" / "wheel" / self.name
        self.python = self.folder / "venv" / "bin" / "python"
        self.wheels = ROOT / "dist" / self.name

    def run(self, *command, **options):
        # Build tools such as ninja are searched on the PATH.
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, **options.pop("environ", {})}
        return subprocess.run([self.python, *command], env=environ, **options)

    def prepare(self):
        """Creates the environment, unless there is one with the same requirements."""
        wanted = f"torch=={self.torch}\n{REQUIREMENTS.read_text()}"
        ready = self.folder / "ready"
        if ready.exists() and ready.read_text() == wanted:
            return
        print(
            f"environment for Python {self.version} and torch {self.torch}: installing", flush=True
        )
        shutil.rmtree(self.folder / "venv", ignore_errors=True)
        ready.unlink(missing_ok=True)
        subprocess.run([self.base, "-m", "venv", self.folder / "venv"], check=True)
        done = self.run(
            *(*PIP_INSTALL, f"torch=={self.torch}", "-r", REQUIREMENTS),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            reason = errors[-1].removeprefix("ERROR: ") if errors else done.stderr
            sys.exit(f"torch {self.torch} cannot be installed for Python {self.version}: {reason}")
        ready.write_text(wanted)

    def bring_toolkit(self):
        """Installs the CUDA packages if the machine has no toolkit for this torch."""
        asked = self.run(
            "-c", MISSING_TOOLKIT, cwd=ROOT, check=True, capture_output=True, text=True
        )
        requirement = asked.stdout.strip()
        if requirement:
            print(f"no CUDA toolkit for this torch: installing {requirement}")
            self.run(*PIP_INSTALL, requirement, check=True)

    def wheel(self):
        """Returns the path of the wheel. Exits if there is none."""
        found = list(self.wheels.glob("*.whl"))
        if not found:
            sys.exit(f"there is no wheel in {self.wheels.relative_to(ROOT)}: run `make wheel`")
        return found[0]


def build(environment, architectures):
    environment.prepare()
    # setuptools reads the folder for objects from this file. Each torch has its own folder.
    base = environment.folder / "build"
    shutil.rmtree(base / "lib", ignore_errors=True)
    config = environment.folder / "setup.cfg"
    config.write_text(f"[build]\nbuild_base = {base}\nbuild_lib = {base / 'lib'}\n")
    environ = {"DIST_EXTRA_CONFIG": str(config)}
    if architectures:
        environment.bring_toolkit()
        environ |= {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architectures}
    shutil.rmtree(environment.wheels, ignore_errors=True)
    command = ("-m", "build", "--wheel", "--no-isolation", "--outdir", environment.wheels, ROOT)
    log = environment.folder / "log"
    print(f"building, which takes minutes; its log is {log.relative_to(ROOT)}", flush=True)
    with open(log, "w") as file:
        done = environment.run(*command, stdout=file, stderr=file, environ=environ)
    lines = log.read_text().splitlines()
    said = [line for line in lines if line.startswith("fused_dropout:")]
    if done.returncode:
        # If setup.py refuses to build, it prints a single line before anything is compiled.
        refused = len(said) == 1 and " building " not in said[0]
        sys.exit(said[0] if refused else "\n".join([*lines, f"The build failed: see {log}"]))
    print(*dict.fromkeys(said), sep="\n")
    report(environment.wheel(), said)


def report(wheel, said):
    """Prints the size of a wheel and how to install it. Exits if it is too large."""
    shown = wheel.relative_to(ROOT)
    size = wheel.stat().st_size / 2**20
    found = [line.split(": ")[2] for line in said if "CUDA architectures" in line]
    count = len(found[0].replace(";", " ").split()) if found else 1
    kind = f"for {found[0]}" if found else "for the CPU only"
    print(f"{shown}: {size:.1f} MiB, {kind}")
    if size > MEBIBYTES * count:
        sys.exit(f"that is more than {MEBIBYTES} MiB for each architecture")
    print(f"install it in an environment with that torch:\n    pip install --no-deps {shown}")


def test(environment, arguments):
    wheel = environment.wheel()
    environment.prepare()
    environment.run(*PIP_INSTALL, "--no-deps", "--force-reinstall", wheel, check=True)
    # In an empty folder, so that Python imports the installed package.
    empty = environment.folder / "empty"
    empty.mkdir(exist_ok=True)
    command = ["-m", "pytest", "-p", "no:cacheprovider"]
    # The mutation tests need a special build.
    command.append(f"--ignore={ROOT / 'tests' / 'test_mutations.py'}")
    for argument in arguments or ["tests"]:
        path = ROOT / argument.split("::")[0]
        command.append(f"{ROOT}/{argument}" if path.exists() else argument)
    done = environment.run(*command, cwd=empty)
    sys.exit(done.returncode)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=["build", "test"])
    parser.add_argument("--python", default="python3", help="name or path of an interpreter")
    parser.add_argument("--torch", help="version of torch; default: that of requirements-dev.txt")
    parser.add_argument("--arch", help="build with CUDA for these, as in TORCH_CUDA_ARCH_LIST")
    arguments, rest = parser.parse_known_args(arguments)
    environment = Environment(arguments.python, arguments.torch)
    if arguments.what == "build":
        build(environment, arguments.arch)
    else:
        test(environment, rest)


if __name__ == "__main__":
    main()
