"""A folder to run in where an installed package is used, and not the sources beside this file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Everything but the package: in the folder with it, its sources would be imported, which have no
# compiled extension.
_COPIED = ("benchmarks", "csrc", "docs", "examples", "tests", "tools")
_FILES = ("CHANGELOG.md", "Makefile", "README.md", "pyproject.toml", "setup.py")


def fill(folder: Path) -> None:
    """Copies what the steps run and what they read; pytest finds its options there too."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "*.so", "*.png", "results")
            shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in _FILES:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder / name)


def environment(installed: bool) -> dict[str, str]:
    """That of the children. For an installed package no entry of PYTHONPATH leads to sources."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # The profiler writes a line for each use otherwise.
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
