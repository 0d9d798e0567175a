"""A recurrent language model on Python's standard library, with three kinds of dropout.

`python -m examples.rnn --out demo_output` trains four small LSTM networks to predict the next word
in the sources of some modules of the standard library. The first has no dropout. The others add
locked, embedding and weight dropout one after another, as in an AWD-LSTM. Their steps take turns.
It writes a table and a plot.
"""

import argparse
import statistics
import time
from pathlib import Path

import matplotlib
import torch
from tqdm import tqdm

from examples import rnn_training
from examples.lm import AVERAGED, smooth

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#cf5c36", "#8fb8de", "#5b8fc7", "#17457a")  # no dropout, then more and more kinds


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m examples.rnn", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="folder for the table and the plot")
    add("--steps", type=int, default=500, help="steps of training")
    return parser.parse_args()


def table(runs, sizes, seconds):
    """Formats the result as text."""
    parameters = sum(parameter.numel() for parameter in runs[0].model.parameters())
    threads = torch.get_num_threads()
    lines = [
        f"{sizes[0]:,} words to train on, {sizes[1]:,} to validate, {sizes[2]:,} different; "
        f"{parameters:,} parameters, {runs[0].steps} steps, {threads} threads, {seconds:.0f} s",
        "",
        f"{'':28}{'training loss':>14}{'validation':>12}{'best':>8}{'gap':>8}{'ms a step':>11}",
    ]
    for run in runs:
        median = statistics.median(run.times)
        last = statistics.fmean(run.training[-AVERAGED:])
        validation = run.validation[-1][1]
        lines.append(
            f"{run.rates.name:28}{last:14.3f}{validation:12.3f}{run.best:8.3f}"
            f"{validation - last:8.3f}{1e3 * median:11.1f}"
        )
    best = min(runs, key=lambda run: run.best)
    if best.rates.name == runs[0].rates.name:
        verdict = "No dropout helped in this run."
    else:
        ratio = 1 - torch.tensor(best.best - runs[0].best).exp().item()
        verdict = (
            f"Best: {best.rates.name}, with a perplexity {100 * ratio:.0f} % below the best "
            "without dropout."
        )
    return "\n".join(
        [
            *lines,
            "",
            "Losses are in nats per word; the training loss is with dropout. One seed per run.",
            verdict,
        ]
    )


def plot(runs, path):
    """Plots loss curves and the best losses side by side, as a PNG."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 4.4), gridspec_kw={"width_ratios": (2, 1)}
    )
    for run, colour in zip(runs, COLOURS, strict=True):
        left.plot(*smooth(run.training), color=colour, alpha=0.35)
        left.plot(
            *zip(*run.validation, strict=True), "o-", ms=3, color=colour, label=run.rates.name
        )
    left.set_xlabel("step")
    left.set_ylabel("cross-entropy, nats per word")
    left.set_title("validation (pale: training)")
    left.legend()
    names = [run.rates.name.replace(", ", "\n") for run in runs]
    bars = right.bar(names, [run.best for run in runs], color=COLOURS)
    right.bar_label(bars, fmt="%.3f")
    lowest, highest = (f(run.best for run in runs) for f in (min, max))
    right.set_ylim(lowest - 2 * (highest - lowest), highest + 0.3 * (highest - lowest))
    right.set_title("best validation loss")
    right.tick_params(axis="x", labelsize=8)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    arguments = parse_arguments()
    start = time.perf_counter()
    total = len(rnn_training.RUNS) * arguments.steps
    with tqdm(total=total, desc="training", unit="step") as bar:
        runs, sizes = rnn_training.train(arguments.steps, max(arguments.steps // 10, 1), bar.update)
    text = table(runs, sizes, time.perf_counter() - start)
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "rnn.txt").write_text(text + "\n", encoding="utf-8")
    plot(runs, arguments.out / "rnn.png")
    print(f"\nThe table and the plot are in {arguments.out}/")


if __name__ == "__main__":
    main()
