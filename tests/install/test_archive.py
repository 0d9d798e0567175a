"""The source archive holds what building and testing from it needs."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "csrc", "docs", "examples", "fused_dropout", "tests", "tools")
FILES = ("*.md", "*.py", "*.yml", "*.toml", "*.txt", "*.in", "LICENSE", "Makefile")
MADE = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.so")


def test_nothing_is_missing(tmp_path):
    # Of a copy: what an earlier archive held is remembered beside its sources, and put in again.
    source = tmp_path / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=MADE)
    for file in (file for pattern in FILES for file in ROOT.glob(pattern)):
        shutil.copy(file, source)
    wanted = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    for name in ("_C.so", "left.pyc"):
        (source / "tests" / name).touch()
    command = ["-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("fused_dropout-*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert not wanted - held
    assert not [name for name in held if name.endswith((".pyc", ".so"))]
