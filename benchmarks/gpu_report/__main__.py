"""Command line: `python -m benchmarks.gpu_report --help`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import archive, limits, process, results, summary, workspace
from .fit import misfit
from .options import parse
from .outcome import ABSENT, FAILED, LATE, NOT_RUN, OK, outcome_of
from .steps import Settings, Step, steps
from .workspace import ROOT

_PROBE_S = 120
_SHOWN = 12  # last lines of a step that failed


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if a step failed, and 2 if the report could not start."""
    begun = time.monotonic()
    options = parse(arguments)
    # Raises SystemExit, so that the running step is ended and the archive is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu-report: ended by SIGTERM"))
    environment = workspace.environment(options.installed)
    if options.rehearse:  # several threads are slow on a busy machine
        environment.setdefault("OMP_NUM_THREADS", "1")
    with contextlib.ExitStack() as stack:
        working_directory = ROOT
        if options.installed:
            working_directory = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="gpu_report_"))
            )
            workspace.fill(working_directory)
        machine = probe(working_directory, environment)
        problem = problem_of(machine, options)
        if problem:
            print(f"gpu-report: {problem}", file=sys.stderr)
            return 2
        settings = settings_of(machine, options)
        seconds = 60 * options.minutes - (time.monotonic() - begun)
        return Report(settings, machine, working_directory, environment).run(options.only, seconds)


def probe(working_directory: Path, environment: dict[str, str]) -> dict:
    """Runs `probe.py` in a child process. Returns {"error": reason} if the child failed."""
    command = [sys.executable, "-m", "benchmarks.gpu_report.probe"]
    try:
        done = subprocess.run(
            command,
            cwd=working_directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_S,
        )
        return json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"error": f"torch did not start within {_PROBE_S} s"}
    except (IndexError, ValueError):
        last = (done.stderr.splitlines() or ["no output"])[-1]
        return {"error": f"Python cannot start torch: status {done.returncode}, {last}"}


def problem_of(machine: dict, options) -> str | None:
    """Returns the reason why the report cannot start, in one line, or None."""
    if "error" in machine:
        return machine["error"]
    if machine["torch"] is None:
        return f"torch cannot be imported by {sys.executable}: {machine['torch_error']}"
    if machine["gpu"] is None and not options.rehearse:
        return f"torch {machine['torch']} sees no GPU (--rehearse tries the steps without one)"
    return misfit(machine, needs_gpu=not options.rehearse) if options.installed else None


def settings_of(machine: dict, options) -> Settings:
    """Returns the settings of the steps. Creates the folder of the report."""
    if options.out is not None:
        folder = options.out.resolve()
    elif options.rehearse:
        folder = ROOT / "build" / "gpu_report_rehearsal"
    else:
        name = re.sub(r"\W+", "_", machine["gpu"]).strip("_").lower()
        folder = ROOT / "benchmarks" / "results" / name
    folder.mkdir(parents=True, exist_ok=True)
    return Settings(
        folder=folder,
        device="cpu" if options.rehearse else "cuda",
        installed=options.installed,
        program=options.sanitize_program.resolve(),
        architecture=".".join(map(str, machine.get("capability", (9, 0)))),
        cores=machine["cores"],
    )


def _weight(status: int) -> int:
    """Ranks exit statuses: that of a failure, then success, then a missing tool."""
    return 0 if status == NOT_RUN else 1 if status == 0 else 2


class Report:
    """Runs the steps. After each step, the files in the folder are a complete report so far."""

    def __init__(
        self, settings: Settings, machine: dict, working_directory: Path, environment: dict
    ):
        self.settings, self.working_directory, self.environment = (
            settings,
            working_directory,
            environment,
        )
        self.rows_file = Path(settings.rows)
        self.report = {"machine": machine, "rehearsal": settings.device == "cpu", "steps": []}

    def run(self, only: list[str], seconds: float) -> int:
        """Returns 1 if a step failed."""
        if self.rows_file.exists():
            os.replace(self.rows_file, self.settings.folder / "earlier_results.jsonl")
        chosen = [step for step in steps(self.settings) if not only or step.name in only]
        start = time.monotonic()
        ends = limits.deadlines([step.limit_s for step in chosen], seconds)
        stopped = ""
        try:
            for i, (step, end) in enumerate(zip(chosen, ends, strict=True), 1):
                remaining = end - (time.monotonic() - start)
                if stopped or remaining <= 0:
                    self.note(step.name, ABSENT, 0.0, stopped or "no time was left")
                    continue
                print(f"{i}/{len(chosen)} {step.name}, at most {remaining:.0f} s …", flush=True)
                outcome = self.step(step, remaining)
                if step.needed and outcome != OK:
                    stopped = f"needs {step.name}"
        finally:
            self.save()
            print(f"\n{self.settings.folder / archive.NAME}\n", flush=True)
            print(self.table(), flush=True)
        return int(any(step["outcome"] in (FAILED, LATE) for step in self.report["steps"]))

    def step(self, step: Step, limit_s: float) -> str:
        """Runs the commands of a step one after the other, also after a failure."""
        log = self.settings.folder / f"{step.name}.txt"
        before = self.rows_file.stat().st_size if self.rows_file.exists() else 0
        start, statuses = time.monotonic(), []
        with open(log, "w") as out:
            for command in step.commands:
                remaining = limit_s - (time.monotonic() - start)
                statuses.append(self.command(command, remaining, out, step.environment))
        results.mend(self.rows_file)
        rows = results.read(self.rows_file, before)
        status = None if None in statuses else max(statuses, key=_weight)
        outcome = outcome_of(status, len(results.failures(rows)))
        note = self.reason(log, outcome, rows)
        self.note(step.name, outcome, time.monotonic() - start, note)
        return outcome

    def command(self, command: list[str], limit_s: float, out, more: dict[str, str]) -> int | None:
        """Runs a command and returns its exit status, or None if it was out of time."""
        print("$", *command, file=out, flush=True)
        if limit_s <= 0:
            print("no time was left", file=out, flush=True)
            return None
        environment = {**self.environment, **more}
        try:
            return process.run(
                command,
                limit_s=limit_s,
                log=out,
                cwd=self.working_directory,
                environment=environment,
            )
        except OSError as error:
            print(error, file=out, flush=True)
            return 127

    def reason(self, log: Path, outcome: str, rows: list[dict]) -> str:
        """Returns a short reason for the outcome. Prints the end of the log if the step failed."""
        if outcome == OK:
            return ""
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
        if outcome in (FAILED, LATE):
            print("\n".join(f"    {line[:300]}" for line in lines[-_SHOWN:]))
        failed = len(results.failures(rows))
        if failed:
            return f"{failed} failures"
        return (lines or [""])[-1].strip()[:90] if outcome != LATE else ""

    def note(self, name: str, outcome: str, seconds: float, note: str) -> None:
        """Adds a step to the report and writes all files again."""
        entry = {"step": name, "outcome": outcome, "seconds": round(seconds, 1), "note": note}
        self.report["steps"].append(entry)
        print(f"  {name}: {outcome} after {seconds:.1f} s {note}".rstrip(), flush=True)
        self.save()

    def table(self) -> str:
        return summary.table(self.report, results.read(self.rows_file))

    def save(self) -> None:
        """Writes the files. An error, such as a full disk, does not end the report."""
        folder = self.settings.folder
        try:
            (folder / "report.json").write_text(json.dumps(self.report, indent=1) + "\n")
            (folder / "summary.txt").write_text(self.table() + "\n")
            archive.renew(folder)
        except OSError as error:
            print(f"gpu-report: the archive could not be written: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
