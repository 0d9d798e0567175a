"""The summary has at most sixty lines, whatever happens."""

import itertools

import pytest

from benchmarks.gpu_report.results import failures
from benchmarks.gpu_report.summary import MOST_LINES, table
from tests.report.stubs import MACHINE, measured

STEPS = [
    {"step": "facts", "outcome": "ok", "seconds": 9.0, "note": ""},
    {"step": "tests", "outcome": "failed", "seconds": 41.0, "note": "2 failures"},
    {"step": "ncu", "outcome": "not run", "seconds": 0.1, "note": "ncu was not found"},
]
REPORT = {"machine": MACHINE, "rehearsal": False, "steps": STEPS}


def rows_of(count):
    rows = [{"facts": {"hardware": {"driver": "580.65"}}}]
    for i in range(count):
        for provider, ms in (("fused", 1.0), ("eager", 2.0), ("copy", 0.8), ("triton4", 1.25)):
            rows += measured(f"case{i}", provider, ms)
        rows += measured(f"case{i}", "fused", 1.1, step="compile")
        rows += measured(f"case{i}", "compile", 2.2, step="compile")
    return rows


def failed(count):
    return [{"failed": f"test_{i}", "why": "assert x"} for i in range(count)]


def test_what_it_says():
    text = table(REPORT, rows_of(1) + failed(1))
    lines = text.splitlines()
    assert lines[0] == "NVIDIA H100, compute capability 9.0"
    assert "torch 2.11.0+cu130, CUDA 13.0, driver 580.65" in lines[1]
    assert lines[4].split() == ["tests", "failed", "41", "2", "failures"]
    assert lines[7].split()[3:] == ["ms", "copy", "eager", "triton4", "compile"]
    # fused in ms, then fused over copy, eager, Triton (in turns with them) and compiled.
    cells = ["1.00", "1.00", "1.25", "1.25", "0.50", "0.50", "0.80", "0.80", "0.50", "0.50"]
    assert lines[8].split() == ["case0", "bfloat16", "32768x4096", *cells]
    assert lines[-2:] == ["failures: 1", "  test_0: assert x"]


@pytest.mark.parametrize(
    ("cases", "names"), list(itertools.product((0, 1, 30, 60, 500), (0, 1, 20, 60, 900)))
)
def test_it_is_short(cases, names):
    rows = rows_of(cases) + failed(names)
    lines = table(REPORT, rows).splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 150
    assert f"failures: {names or 'none'}" in lines
    # What is left out is counted.
    for what, count in (("  case", cases), ("  test_", names)):
        shown = sum(line.startswith(what) for line in lines) - (what == "  case" and count > 0)
        if shown < count:
            assert any(line == f"  … and {count - shown} more in results.jsonl" for line in lines)


@pytest.mark.parametrize("most", [1, 8, 10])
def test_it_is_as_short_as_it_has_to_be(most):
    assert len(table(REPORT, rows_of(40) + failed(40), most).splitlines()) <= most


def test_long_names_do_not_make_long_lines():
    rows = [{"failed": "t" * 5000, "why": "w" * 5000}]
    assert max(map(len, table(REPORT, rows).splitlines())) == 150


def test_a_rehearsal_says_that_no_gpu_was_seen():
    report = {**REPORT, "machine": {**MACHINE, "gpu": None}, "rehearsal": True}
    assert table(report, []).startswith("REHEARSAL without a GPU")


def test_failures_are_named():
    rows = [
        {"failed": "memcheck", "why": ""},
        {"case": "dropout", "dtype": "float32", "provider": "compile", "error": "OutOfMemory: 3"},
        {"case": "dropout", "provider": "compile", "error": "skipped: no time left to compile"},
        {"case": "dropout", "provider": "eager", "median_ms": 1.0},
    ]
    assert failures(rows) == ["memcheck", "dropout float32 compile: OutOfMemory: 3"]
