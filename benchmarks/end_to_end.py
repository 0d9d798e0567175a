"""Training steps of whole models with `fd.fuse`: `python -m benchmarks.end_to_end --help`.

It times forward, loss, backward and the optimiser's step (AdamW) of models of transformers, timm
and torch, and of one's own code, with random weights. The models are unchanged, compiled, fused,
and fused and compiled, without and with dropout. Their steps are sampled in turn in one process.
The goal is that a fused model with dropout takes no more time than the unchanged model without.
`--small` measures small models of text, with dropout, where the goal is that `fuse` makes no step
3 % slower.
"""

from __future__ import annotations

import os

import torch

import fused_dropout as fd

from . import steps
from .cases import P
from .devices import DEVICES
from .models import KINDS
from .progress import Progress
from .sizes import QUICK, SIZES, SMALL, Sizes

MODULE = "benchmarks.end_to_end"
WAYS = {  # (fused, compiled)
    "as is": (False, False),
    "compiled": (False, True),
    "fused": (True, False),
    "fused and compiled": (True, True),
}


def _name(way: str, p: float) -> str:
    return f"{way}, p = {p:g}"


_QUICK = "A quick run: the batch is much smaller, and the times mean nothing."
FUSED = _name("fused", P)


def make_step(kind: str, way: str, p: float, device, sizes: Sizes, precision: str):
    """Returns a step and the report of `fuse`."""
    torch.manual_seed(0)  # the same weights and data for all providers
    fused, compiled = WAYS[way]
    with torch.device(device.name):
        model, loss = KINDS[kind].make(p, getattr(sizes, KINDS[kind].size))
    model.train()
    report = fd.fuse(model) if fused else None
    # If it was dynamic, the compiler would make p a variable when it sees a second value.
    call = torch.compile(model, dynamic=False) if compiled else model

    def forward_and_backward():
        with steps.autocast(device, precision):
            value = loss(call)
        value.backward()

    return steps.Step(model, forward_and_backward, device), report


def measure(
    kind: str,
    ways: list[str],
    device,
    sizes: Sizes,
    precision: str,
    samples: int,
    progress,
    probabilities=(0.0, P),
):
    """Returns the rows of one model, and the report of `fuse` with dropout."""
    torch.compiler.reset()
    providers, report = {}, None
    for p in probabilities:
        for way in ways:
            providers[_name(way, p)], new = make_step(kind, way, p, device, sizes, precision)
            report = new or report
    rows = steps.measure(providers, samples, progress)
    head = {"model": kind, "size": KINDS[kind].describe(sizes), "precision": precision}
    return [{**head, **row} for row in rows], report


def verdict(rows: list[dict], goal: float = 1) -> str:
    """Returns a sentence that says whether the goal is met: a ratio to the first row."""
    row = next(row for row in rows if row["provider"] == FUSED)
    ratio, low, high = (row[key] for key in ("ratio", "ratio_p20", "ratio_p80"))
    if high <= goal:
        outcome = "met"
    elif low > goal:
        outcome = "missed"
    else:
        outcome = "undecided, because the rounds differ too much"
    return (
        f"goal, ratio of {FUSED} to {rows[0]['provider']} at most {goal}: {outcome}; the median is "
        f"{ratio:.3f}, "
        f"and the 20th to 80th percentile is {low:.3f} to {high:.3f}"
    )


def _parse():
    parser = steps.parser_of(MODULE, __doc__)
    add = parser.add_argument
    add(
        "--models",
        type=lambda text: text.split(","),
        metavar="A,B",
        help=f"of {','.join(KINDS)}; default: all whose packages are installed",
    )
    add("--eager", action="store_true", help="compile nothing")
    add("--small", action="store_true", help="small models of text, eager, with dropout")
    args = steps.parse(parser, MODULE)
    if args.models is None:
        args.models = [
            name
            for name, kind in KINDS.items()
            if kind.is_there() and not (args.small and kind.size != "text")
        ]
    for name in args.models:
        if name not in KINDS:
            parser.error(f"--models: expected some of {','.join(KINDS)}, got {name}")
        if not KINDS[name].is_there():
            parser.error(f"--models: {name} needs the package {KINDS[name].package}")
    return args


def main() -> None:
    """Prints a table for each model."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    args = _parse()
    samples = min(args.samples, 3) if args.quick else args.samples
    eager = args.eager or args.quick or args.small
    ways = [way for way, (_, compiled) in WAYS.items() if not (compiled and eager)]
    device = DEVICES[args.device]()
    if args.small:
        all_sizes, probabilities, goal = SMALL, (P,), 1.03
    else:
        all_sizes = (QUICK if args.quick else SIZES[args.device],)
        probabilities, goal = (0.0, P), 1
    cases = [(kind, sizes) for kind in args.models for sizes in all_sizes]
    results, blocks = [], []
    with Progress(total=len(cases) * (samples + 1), unit="round") as bar:
        for kind, sizes in cases:
            bar.set_postfix_str(kind)
            rows, report = measure(
                kind, ways, device, sizes, args.precision, samples, bar.update, probabilities
            )
            results += rows
            steps.append(args, rows)
            head = f"{kind}: {KINDS[kind].describe(sizes)}, {args.precision}"
            text = steps.table(head, rows)
            blocks.append(f"{text}\n{_QUICK if args.quick else verdict(rows, goal)}")
            if not args.small:
                blocks[-1] += f"\n{report}"
    for name in KINDS:
        if name not in args.models and not KINDS[name].is_there():
            blocks.append(f"{name} is skipped: package {KINDS[name].package} is not installed")
    print("\n\n".join(blocks))
    steps.write(args, MODULE, results)


if __name__ == "__main__":
    main()
