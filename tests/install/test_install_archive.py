"""The source archive holds what building and testing from it needs."""

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "csrc", "docs", "examples", "fused_dropout", "tests", "tools")
FILES = ("*.md", "*.py", "*.toml", "*.txt", "LICENSE", "Makefile")


def test_nothing_is_missing(tmp_path):
    command = ["-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("fused_dropout-*.tar.gz")
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    wanted = [path for pattern in FILES for path in ROOT.glob(pattern)]
    for folder in FOLDERS:
        wanted += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    named = {
        path.relative_to(ROOT).as_posix() for path in wanted if path.suffix not in (".pyc", ".so")
    }
    assert not named - held
    assert not [name for name in held if name.endswith((".pyc", ".so"))]
