"""Code shared by the benchmarks of training steps, which time the steps of providers in turn."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from . import allocator, environment
from .devices import DEVICES
from .sizes import PRECISION, PRECISIONS
from .text import align
from .timing import summary, take_turns


class Step:
    """One provider: a model with its optimiser.

    `forward_and_backward` is a function without arguments. `inputs` are leaf tensors that get
    gradients besides the model's parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        forward_and_backward: Callable,
        device,
        inputs: tuple[torch.Tensor, ...] = (),
    ):
        self.model, self.device, self.inputs = model, device, inputs
        self.forward_and_backward = forward_and_backward
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.times: list[float] = []

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        for x in self.inputs:
            x.grad = None
        self.forward_and_backward()
        self.optimizer.step()

    def sample(self) -> None:
        """Times one step."""
        self.device.settle()
        start = self.device.mark()
        self()
        end = self.device.mark()
        self.times.append(self.device.elapsed_ms(start, end))

    def activation_bytes(self) -> int:
        """Returns the peak memory of forward and backward, without parameters and gradients."""
        self()
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        _, peak, _ = self.device.track(self.forward_and_backward)
        return peak


def autocast(device, precision: str):
    """Returns a context for the forward pass, for one of `PRECISIONS`."""
    return torch.autocast(device.name, torch.bfloat16, enabled=precision == "autocast")


def measure(steps: dict[str, Step], samples: int, progress: Callable) -> list[dict]:
    """Returns a row for each provider. `progress()` is called `samples + 1` times.

    The ratio to the first provider is computed in each round of turns. So it does not depend on
    whether the machine becomes slower or faster during the measurement.
    """
    for step in steps.values():
        step()
        step()
    progress()
    gc.collect()
    gc.disable()
    for i, name in enumerate(take_turns(dict.fromkeys(steps, samples))):
        steps[name].sample()
        if i % len(steps) == 0:
            progress()
    gc.enable()
    first = next(iter(steps.values())).times
    rows = []
    for name, step in steps.items():
        ratios = [own / other for own, other in zip(step.times, first, strict=True)]
        p20, _, _, p80 = statistics.quantiles(ratios, n=5, method="inclusive")
        rows.append(
            {
                "provider": name,
                "activation_bytes": step.activation_bytes(),
                **summary(step.times),
                "ratio": statistics.median(ratios),
                "ratio_p20": p20,
                "ratio_p80": p80,
                "samples": len(ratios),
            }
        )
    return rows


def table(head: str, rows: list[dict]) -> str:
    """Formats the rows. Ratios and differences are relative to the first provider."""
    base = rows[0]["median_ms"]
    digits = 1 if base >= 100 else 2
    lines = [("provider", "ms", "p20", "p80", "x first", "difference", "activations, MB")]
    for row in rows:
        times = (f"{row[key]:.{digits}f}" for key in ("median_ms", "p20_ms", "p80_ms"))
        difference = row["median_ms"] - base
        megabytes = f"{row['activation_bytes'] / 1e6:.1f}"
        lines.append(
            (row["provider"], *times, f"{row['ratio']:.3f}", f"{difference:+.{digits}f}", megabytes)
        )
    return f"{head}\n{align(lines, 1)}"


def parser_of(module: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of all benchmarks of training steps."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    add = parser.add_argument
    add("--device", choices=DEVICES, default="cpu")
    add(
        "--precision",
        choices=PRECISIONS,
        help=f"autocast: to bfloat16, with float32 parameters; default: {PRECISION}",
    )
    add("--samples", type=int, default=15, help="steps of each provider, at least 2")
    add("--quick", action="store_true", help="small, few samples, no compilation: for CI")
    add("--json", metavar="FILE", help="write the result to this file")
    add("--rows", metavar="FILE.jsonl", help="append every row to this file when it is measured")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def parse(parser: argparse.ArgumentParser, module: str) -> argparse.Namespace:
    """Parses the command line. On the CPU, a child process with recycled memory measures."""
    args = parser.parse_args()
    if args.samples < 2:
        parser.error(f"--samples: expected at least 2, got {args.samples}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device")
    args.precision = args.precision or PRECISION[args.device]
    if args.device == "cpu":
        if not args.child:
            sys.exit(allocator.run_child("recycled", module, *sys.argv[1:], "--child"))
        if not args.quick:
            allocator.fill_heap(3 << 30)
    return args


def append(args: argparse.Namespace, rows: list[dict]) -> None:
    """Appends rows to the file of `--rows`, so that a later crash does not lose them."""
    if args.rows:
        with open(args.rows, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def write(args: argparse.Namespace, module: str, rows: list[dict]) -> None:
    """Writes the result to the file of `--json`."""
    if args.json:
        command = " ".join(["python -m", module, *sys.argv[1:]]).replace(" --child", "")
        result = {"meta": environment.describe(command, args.device), "rows": rows}
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
