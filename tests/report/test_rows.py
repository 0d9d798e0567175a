"""Rows are written at once, and the output of every tool becomes rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fused_dropout
from benchmarks.gpu_report import __main__ as report
from benchmarks.gpu_report import ncu, outcome, pool, results, sanitize
from benchmarks.gpu_report.steps import Step
from tests.report.stubs import ROOT, settings

RANGE = "thread Domain:Push/Pop_Range:PL_Type:PL_Value:CLR_Type:Color:Msg_Type:Msg"


def test_rows_outlive_a_child_that_is_killed_while_it_writes(tmp_path):
    file = tmp_path / "rows.jsonl"
    results.append(file, [{"case": "a"}])
    start = file.stat().st_size
    with open(file, "a") as out:
        out.write('{"case": "b"}\n{"case": "c", "med')
    results.mend(file)
    results.append(file, [{"case": "d"}])
    assert results.read(file, start) == [{"case": "b"}, {"case": "d"}]
    assert results.read(tmp_path / "absent") == []


def test_the_benchmarks_append_to_a_file_of_rows(tmp_path):
    """And they need no package but torch."""
    for name in ("tqdm", "matplotlib"):
        code = f"raise ModuleNotFoundError('No module named {name}')\n"
        (tmp_path / f"{name}.py").write_text(code)
    # From a folder with the package under test, which need not be the source folder's.
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "fused_dropout").symlink_to(Path(fused_dropout.__file__).parent)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"facts": {}}\n')
    command = [sys.executable, "-m", "benchmarks", "--quick", "--cases", "dropout"]
    command += ["--shapes", "16x64", "--providers", "fused,copy", "--rows", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 items" in done.stderr  # progress without tqdm
    rows = results.read(file)
    assert rows[0] == {"facts": {}}
    assert {(row["provider"], row["direction"]) for row in rows[1:]} == {
        *(("fused", direction) for direction in ("fwd", "bwd", "fwd+bwd")),
        ("copy", "fwd"),
    }


def test_failed_tests_are_named(tmp_path):
    (tmp_path / "test_bad.py").write_text(
        "import os, pytest\n"
        "def test_fails():\n    assert 1 == 2\n"
        "@pytest.fixture\ndef broken():\n    raise ValueError('odd')\n"
        "def test_errs(broken):\n    pass\n"
        "def test_passes():\n    pass\n"
    )
    (tmp_path / "test_crash.py").write_text("import os\ndef test_crash():\n    os.abort()\n")
    (tmp_path / "test_good.py").write_text("def test_good():\n    pass\n")
    options = ["-c", "/dev/null", "--rootdir", str(tmp_path)]
    text, rows = pool.run_file(str(tmp_path / "test_bad.py"), options)
    assert "1 passed" in text
    assert [row["failed"].split("::")[-1] for row in rows] == ["test_fails", "test_errs"]
    assert "assert 1 == 2" in rows[0]["why"] and "odd" in rows[1]["why"]
    _, rows = pool.run_file(str(tmp_path / "test_crash.py"), options)
    assert rows == [{"failed": "test_crash.py", "why": "pytest ended with status -6"}]
    assert pool.run_file(str(tmp_path / "test_good.py"), options)[1] == []


def test_every_nth_test(tmp_path):
    (tmp_path / "test_many.py").write_text(
        "import pytest\n@pytest.mark.parametrize('i', range(7))\ndef test_one(i):\n    pass\n"
    )
    options = ["-c", "/dev/null", "-p", "benchmarks.gpu_report.every", "--every", "3"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )  # fmt: skip
    assert "3 passed, 4 deselected" in done.stdout


def line(*cells):
    return ",".join(f'"{cell}"' for cell in cells)


def test_what_ncu_writes():
    metrics = ["gpu__time_duration.sum", "smsp__issue_active.avg.pct_of_peak_sustained_active"]
    metrics += [
        "lts__t_sectors_srcunit_tex_op_write.sum",
        "lts__t_requests_srcunit_tex_op_write.sum",
    ]
    kernel = "void fused_dropout::cuda::pointwise_forward_kernel<float, float>(Args<int, 3>)"
    mark = "1:<default domain>:gpu_report=dropout float32:none:none:none:none:none"
    text = "\n".join(
        [
            "==PROF== Connected to process 7",
            line("ID", "Kernel Name", RANGE, *metrics),
            line("", "", "", "ns", "%", "sector", ""),
            line("0", kernel, mark, "123,456.5", "51.25", "4,000", "1,000"),
            line("1", "other", "", "12", "n/a", "", ""),
            "==PROF== Disconnected",
        ]
    )
    rows = ncu.rows_of(text)
    head = {"label": "dropout float32", "kernel": "pointwise_forward_kernel"}
    assert rows[0] == {**head, "metric": metrics[0], "value": 123456.5, "unit": "ns"}
    assert rows[1] == {**head, "metric": metrics[1], "value": 51.25, "unit": "%"}
    assert len(rows) == 5 and rows[4]["label"] == "?" and rows[4]["value"] == 12
    lines = ncu.table(rows).splitlines()
    assert len(lines) == 3 and lines[1].split()[-1] == "4"
    assert ncu.rows_of("==ERROR== ERR_NVGPUCTRPERM") == []


@pytest.mark.parametrize("tool", [ncu, sanitize])
def test_a_tool_that_is_not_there_is_no_failure(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool, "find", lambda: None)
    monkeypatch.setattr(sys, "argv", ["x", "--csv", "x", "--program", "x"])
    if tool is ncu:
        monkeypatch.setattr(sys, "argv", ["x", "--csv", "x"])
    else:
        monkeypatch.setattr(sys, "argv", ["x", "--program", "x"])
    assert tool.main() == outcome.NOT_RUN
    assert "was not found" in capsys.readouterr().out


def test_what_a_sanitizer_finds(tmp_path):
    sanitizer = tmp_path / "compute-sanitizer"
    sanitizer.write_text(
        "#!/bin/sh\necho ========= COMPUTE-SANITIZER\n"
        "echo '========= Invalid __global__ write of size 2 bytes'\n"
        'test "$2" = memcheck\n'
    )
    sanitizer.chmod(0o755)
    assert sanitize.run("memcheck", str(sanitizer), "program", 1)[1] == []
    (row,) = sanitize.run("racecheck", str(sanitizer), "program", 1)[1]
    assert row["failed"] == "racecheck" and "Invalid __global__ write of size 2" in row["why"]


@pytest.mark.parametrize(
    ("status", "failures", "expected"),
    [(0, 0, "ok"), (0, 2, "failed"), (1, 0, "failed"), (-11, 0, "failed"), (None, 1, "out of time"),
     (outcome.NOT_RUN, 0, "not run")],
)  # fmt: skip
def test_outcomes(status, failures, expected):
    assert outcome.outcome_of(status, failures) == expected


class Reported(report.Report):
    """Without the machine."""

    def __init__(self, folder, steps, monkeypatch):
        machine = {"gpu": None, "torch": "2", "python": "3"}
        super().__init__(settings(folder, "cpu"), machine, ROOT, {})
        monkeypatch.setattr(report, "steps", lambda _: steps)

    def outcomes(self):
        return {step["step"]: step["outcome"] for step in self.report["steps"]}


def python(code):
    return [sys.executable, "-S", "-c", code]


def test_a_report_of_steps_that_go_well_fail_and_are_not_there(tmp_path, monkeypatch, capsys):
    rows = str(tmp_path / "results.jsonl")
    say = f"""open({rows!r}, 'a').write('{{"failed": "it"}}\\n{{"case": ')"""
    steps = [
        Step("good", 9, [python("print('fine')")], needed=True),
        Step("rows", 9, [python(say)]),
        Step("mixed", 9, [python("import sys; sys.exit(4)"), python("print('goes on')")]),
        Step("absent", 9, [["/nowhere/tool"]]),
        Step("none", 9, [python("import sys; print('no such tool'); sys.exit(77)")]),
    ]
    made = Reported(tmp_path, steps, monkeypatch)
    assert made.run([], 45) == 1
    assert made.outcomes() == {
        "good": "ok", "rows": "failed", "mixed": "failed", "absent": "failed", "none": "not run",
    }  # fmt: skip
    assert "goes on" in (tmp_path / "mixed.txt").read_text()
    written = json.loads((tmp_path / "report.json").read_text())
    assert [step["step"] for step in written["steps"]] == [step.name for step in steps]
    assert written["steps"][4]["note"] == "no such tool"
    assert (tmp_path / "report.tar.gz").exists()
    text = capsys.readouterr().out
    assert text.endswith((tmp_path / "summary.txt").read_text())
    assert text.splitlines()[-1] == "  it"


def test_a_step_that_takes_too_long(tmp_path, monkeypatch):
    """Its limit is for all of its commands, and the next step has its own."""
    slow = [python("import time; time.sleep(60)"), python("print('never')")]
    made = Reported(tmp_path, [Step("slow", 0.3, slow), Step("next", 9, [python("")])], monkeypatch)
    assert made.run([], 9.3) == 1
    assert made.outcomes() == {"slow": "out of time", "next": "ok"}
    assert "no time was left" in (tmp_path / "slow.txt").read_text().splitlines()[-1]


def test_it_stops_if_the_first_step_fails(tmp_path, monkeypatch):
    steps = [Step("facts", 9, [python("1/0")], needed=True), Step("tests", 9, [python("")])]
    made = Reported(tmp_path, steps, monkeypatch)
    assert made.run([], 60) == 1
    assert made.outcomes() == {"facts": "failed", "tests": "not run"}


def test_only_some_steps(tmp_path, monkeypatch):
    steps = [Step("facts", 9, [python("1/0")], needed=True), Step("tests", 9, [python("")])]
    made = Reported(tmp_path, steps, monkeypatch)
    assert made.run(["tests"], 60) == 0
    assert made.outcomes() == {"tests": "ok"}
