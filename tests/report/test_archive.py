"""The report is one archive, for any amount of output."""

import json
import os
import tarfile

import pytest

from benchmarks.gpu_report import archive


def contents(folder):
    with tarfile.open(folder / archive.NAME) as found:
        return {name: found.extractfile(name).read() for name in found.getnames()}


def test_small_files_are_whole(tmp_path):
    (tmp_path / "facts.txt").write_text("facts\n")
    (tmp_path / "results.png").write_bytes(b"\x89PNG")
    archive.renew(tmp_path)
    assert contents(tmp_path) == {"facts.txt": b"facts\n", "results.png": b"\x89PNG"}


def test_a_renewed_archive_does_not_contain_the_last_one(tmp_path):
    (tmp_path / "facts.txt").write_text("facts\n")
    archive.renew(tmp_path)
    (tmp_path / "tests.txt").write_text("tests\n")
    archive.renew(tmp_path)
    assert sorted(contents(tmp_path)) == ["facts.txt", "tests.txt"]
    assert sorted(os.listdir(tmp_path)) == ["facts.txt", "report.tar.gz", "tests.txt"]


def test_a_huge_log_keeps_its_ends(tmp_path):
    """Of lines that do not compress."""
    line = b"%08d " + os.urandom(500).hex().encode() + b"\n"
    with open(tmp_path / "tests.txt", "wb") as file:
        for start in range(0, 40_000, 1000):
            file.write(b"".join(line % (start + i) for i in range(1000)))
        file.write(b"the end\n")
    assert archive.renew(tmp_path).stat().st_size <= archive.MOST_BYTES
    found = contents(tmp_path)
    lines = found["tests.txt"].splitlines()
    assert lines[0].startswith(b"00000000 ") and lines[-1] == b"the end"
    assert all(len(one) in (7, 1009) for one in lines), "a line was cut"
    assert found["trimmed.txt"].startswith(b"tests.txt: the first and last")


@pytest.mark.parametrize("most", [200_000, 20_000])
def test_it_is_never_too_large(tmp_path, most):
    rows = [json.dumps({"case": os.urandom(40).hex()}) for _ in range(20_000)]
    (tmp_path / "results.jsonl").write_text("\n".join(rows) + "\n")
    for i in range(30):
        (tmp_path / f"step{i}.txt").write_text(os.urandom(20_000).hex() + "\n")
    (tmp_path / "results.png").write_bytes(os.urandom(300_000))
    assert archive.renew(tmp_path, most).stat().st_size <= most
    found = contents(tmp_path)
    assert all(json.loads(line) for line in found["results.jsonl"].splitlines())
    assert b"results.png: left out" in found["trimmed.txt"]
