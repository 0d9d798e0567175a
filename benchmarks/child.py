"""The measuring process: `python -m benchmarks.child PLAN.json ROWS.jsonl`.

`allocator.run_child` starts it. Each row is appended to the file as soon as it is measured, so a
crash does not lose earlier rows.
"""

from __future__ import annotations

import json
import sys

from .allocator import fill_heap
from .devices import DEVICES
from .progress import Progress
from .runner import Runner, Unit
from .timing import Effort

_HEAP_TENSORS = 12  # of the largest size, at eight bytes per element


def main(plan_file: str, rows_file: str) -> None:
    """Measures the units of the plan. The entries of the plan's "head" are added to each row."""
    with open(plan_file) as file:
        plan = json.load(file)
    memory = plan["memory"]
    if memory == "recycled":
        fill_heap(_HEAP_TENSORS * max(8 * unit["rows"] * unit["cols"] for unit in plan["units"]))
    runner = Runner(
        DEVICES[plan["device"]](),
        plan["providers"],
        memory,
        Effort(**plan["effort"]),
        plan["compile_s"],
    )
    tty = sys.stderr.isatty()  # elsewhere a redraw would print another line for each note
    head = plan.get("head", {})
    with open(rows_file, "a") as out, Progress(plan["units"], desc=f"{memory} memory") as bar:
        for unit in (Unit(**fields) for fields in bar):

            def note(text, unit=unit):
                bar.set_postfix_str(f"{unit.case} {unit.shape} {unit.dtype}: {text}", tty)

            for row in runner.run(unit, note):
                print(json.dumps({**head, **row}), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
