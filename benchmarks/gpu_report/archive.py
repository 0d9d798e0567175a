"""Packs a report into one archive of limited size."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

NAME = "report.tar.gz"
MOST_BYTES = 16 << 20
# Bytes kept at each end of a long file. The next size is tried if the archive is still too large.
_ENDS = (2 << 20, 256 << 10, 32 << 10, 4 << 10, 512)
_FIRST = ("summary.txt", "report.json", "results.jsonl", "facts.txt")
_LINES = (".txt", ".json", ".jsonl", ".csv", ".log")


def renew(folder: Path, most_bytes: int = MOST_BYTES) -> Path:
    """Writes `folder/report.tar.gz` from the files in the folder, and returns its path.

    Of long text files it contains the first and the last lines. Other files that are too large are
    not in the archive. `trimmed.txt` in the archive lists both. The archive is written to a
    temporary file that is then renamed.
    """
    target, temporary = folder / NAME, folder / f".{NAME}.new"
    for ends in _ENDS:
        _write(folder, temporary, ends)
        if temporary.stat().st_size <= most_bytes:
            break
    else:
        _write(folder, temporary, _ENDS[-1], _FIRST[:3])
    os.replace(temporary, target)
    return target


def _write(folder: Path, target: Path, ends: int, only: tuple[str, ...] | None = None) -> None:
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name != NAME
    )
    names = [*(name for name in _FIRST if name in names), *(n for n in names if n not in _FIRST)]
    notes = []
    with tarfile.open(target, "w:gz", compresslevel=6) as archive:
        for name in names:
            size = (folder / name).stat().st_size
            if only is not None and name not in only:
                notes.append(f"{name}: left out, {size} bytes")
            elif size <= 2 * ends:
                _add(archive, name, (folder / name).read_bytes())
            elif name.endswith(_LINES):
                _add(archive, name, _ends_of(folder / name, ends))
                notes.append(f"{name}: the first and last {ends} of {size} bytes")
            else:
                notes.append(f"{name}: left out, {size} bytes")
        if notes:
            _add(archive, "trimmed.txt", "".join(f"{note}\n" for note in notes).encode())


def _ends_of(path: Path, ends: int) -> bytes:
    """Returns the first and the last lines of a file, without incomplete lines."""
    with open(path, "rb") as file:
        head = file.read(ends)
        file.seek(-ends, io.SEEK_END)
        tail = file.read(ends)
    return head[: head.rfind(b"\n") + 1] + tail[tail.find(b"\n") + 1 :]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
