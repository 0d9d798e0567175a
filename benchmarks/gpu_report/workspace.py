"""A folder without the package's sources, in which the steps use an installed package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
# All folders but the package. Python would import its sources, which have no compiled extension.
_COPIED = ("benchmarks", "csrc", "docs", "examples", "tests", "tools")
_FILES = ("CHANGELOG.md", "Makefile", "README.md", "pyproject.toml", "setup.py")


def fill(folder: Path) -> None:
    """Copies the files that the steps need, pytest's options included."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "*.so", "*.png", "results")
            shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in _FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)


def environment(installed: bool) -> dict[str, str]:
    """Returns the environment of child processes.

    For an installed package, PYTHONPATH has no entry with the sources of the package.
    """
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # Otherwise the profiler prints a line in each use.
    variables.setdefault("KINETO_LOG_LEVEL", "99")
    if installed:
        entries = variables.pop("PYTHONPATH", "").split(os.pathsep)
        kept = [one for one in entries if os.path.isabs(one) and not _is_sources(Path(one))]
        if kept:
            variables["PYTHONPATH"] = os.pathsep.join(kept)
    return variables


def _is_sources(folder: Path) -> bool:
    package = folder / "fused_dropout"
    return package.is_dir() and not any(package.glob("_C*.so"))
