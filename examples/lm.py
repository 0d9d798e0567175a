"""A character-level language model on Python's standard library, unfused and fused.

`python -m examples.lm --out demo_output` trains four small transformers on the sources of some
modules of the standard library: without and with dropout, with `torch.nn` and with this package.
Their steps take turns. It writes a table and a plot.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler prints a line in each use

import matplotlib
import torch
from tqdm import tqdm

from examples import lm_training

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = {False: "#cf5c36", True: "#2f6db3"}  # without and with dropout
AVERAGED = 20  # steps per point of the training curve


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m examples.lm", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="folder for the table and the plot")
    add("--steps", type=int, default=350, help="steps of training")
    add("--p", type=float, default=0.1, help="probability to drop")
    return parser.parse_args()


def smooth(values):
    """Returns the last steps of successive chunks, and the means of the chunks."""
    ends = range(AVERAGED, len(values) + 1, AVERAGED)
    return list(ends), [statistics.fmean(values[end - AVERAGED : end]) for end in ends]


def table(runs, memory, sizes, seconds):
    """Formats the result as text."""
    parameters = sum(parameter.numel() for parameter in runs[0].model.parameters())
    threads = torch.get_num_threads()
    lines = [
        f"{sizes[0]:,} characters to train on, {sizes[1]:,} to validate; "
        f"{parameters:,} parameters, {runs[0].steps} steps, {threads} threads, {seconds:.0f} s",
        "",
        f"{'':18}{'training loss':>14}{'validation':>12}{'ms a step':>11}"
        f"{'to the first':>14}{'activations':>13}",
    ]
    first = statistics.median(runs[0].times)
    for run in runs:
        median = statistics.median(run.times)
        last = statistics.fmean(run.training[-AVERAGED:])
        lines.append(
            f"{run.name:18}{last:14.3f}{run.validation[-1][1]:12.3f}{1e3 * median:11.1f}"
            f"{median / first:14.2f}{memory[run.name] / 1e6:10.1f} MB"
        )
    lines += [
        "",
        "Losses are in nats per character; the training loss is with dropout. Unfused and fused",
        "runs use different masks, so losses with dropout agree only in distribution.",
    ]
    return "\n".join(lines)


def plot(runs, memory, path):
    """Plots loss curves, step times and memory side by side, as a PNG."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.2), gridspec_kw={"width_ratios": (3, 1.1, 1.1)}
    )
    for run in runs:
        colour, style = COLOURS[run.p > 0], "--" if run.fused else "-"
        width = 1.4 if run.fused else 3
        left.plot(*smooth(run.training), style, color=colour, lw=width, alpha=0.35)
        left.plot(*zip(*run.validation, strict=True), style, color=colour, lw=width, label=run.name)
    left.set_xlabel("step")
    left.set_ylabel("cross-entropy, nats per character")
    left.set_title("validation (pale: training)")
    left.legend()
    names = [run.name.replace(", ", "\n") for run in runs]
    colours = [COLOURS[run.p > 0] for run in runs]
    for axis, values, title in (
        (middle, [1e3 * statistics.median(run.times) for run in runs], "ms a step"),
        (right, [memory[run.name] / 1e6 for run in runs], "activations, MB"),
    ):
        bars = axis.bar(names, values, color=colours)
        axis.bar_label(bars, fmt="%.0f")
        axis.set_title(title)
        axis.tick_params(axis="x", labelsize=7)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    arguments = parse_arguments()
    start = time.perf_counter()
    with tqdm(total=4 * arguments.steps, desc="training", unit="step") as bar:
        runs, memory, sizes = lm_training.train(
            arguments.p, arguments.steps, max(arguments.steps // 10, 1), bar.update
        )
    text = table(runs, memory, sizes, time.perf_counter() - start)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "lm.txt").write_text(text + "\n", encoding="utf-8")
    plot(runs, memory, arguments.out / "lm.png")
    print(f"\nThe table and the plot are in {arguments.out}/")


if __name__ == "__main__":
    main()
