"""Environments with other packages beside those of this one: `python -m tools.environment --help`.

Such an environment also sees the packages of this one, its torch above all, so only what is missing
here or has another version is installed.
"""

import argparse
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_with(folder, requirements):
    """The Python of an environment in which requirements are installed.

    Args:
        folder: where the environment is; it is made again if it has other requirements.
        requirements: list of str, such as "timm==1.0.20".
    """
    python = folder / "bin" / "python"
    ready = folder / "ready"
    wanted = "\n".join(requirements)
    if not ready.exists() or ready.read_text() != wanted:
        _run(sys.executable, "-m", "venv", "--clear", "--without-pip", folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
        torch = version("torch").partition("+")[0]  # the one here, which pip must not replace
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
        _run(*pip, "--disable-pip-version-check", f"torch=={torch}", *requirements)
        ready.write_text(wanted)
    return python


def _run(*command):
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.environment", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("requirements", nargs="+")
    options = parser.parse_args()
    python_with(options.folder.resolve(), options.requirements)
