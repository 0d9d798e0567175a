"""Plots of `examples.digits`."""

import matplotlib
import numpy as np

from examples.digits_timing import SETTINGS

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

COLOURS = {False: "#cf5c36", True: "#2f6db3"}  # without and with dropout
DPI = 130


def label(p, fused):
    return f"{f'p = {p:g}' if p else 'no dropout'}, {'fused' if fused else 'unfused'}"


def plot_curves(task, histories, path):
    """Plots accuracy and loss over the epochs, training left and validation right, as a PNG.

    `histories` maps the four cases of `task` to one history per seed. Lines are means over the
    seeds: wide and pale for unfused, thin and dashed for fused networks. Bands are one standard
    deviation.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.8), sharex=True, sharey="row")
    for row, (measure, scale) in zip(axes, (("acc", 100), ("loss", 1)), strict=True):
        for axis, part in zip(row, ("train", "val"), strict=True):
            for case, runs in histories.items():
                draw_case(axis, case, scale * np.array([run[f"{part}_{measure}"] for run in runs]))
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)

    worst = min(100 * run["val_acc"][-1] for runs in histories.values() for run in runs)
    axes[0, 0].set_ylim(max(0, worst - 8), 101)
    axes[0, 0].set_ylabel("accuracy, %")
    axes[1, 0].set_ylabel("cross-entropy")
    axes[1, 0].set_yscale("log")
    axes[1, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[1, 0].yaxis.set_major_formatter("{x:g}")
    axes[1, 0].yaxis.set_minor_formatter(NullFormatter())
    wrong = f", {100 * task.label_noise:.0f} % of its labels wrong" if task.label_noise else ""
    axes[0, 0].set_title(f"training set{wrong}", fontsize=11)
    axes[0, 1].set_title("validation set", fontsize=11)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    figure.suptitle(f"Handwritten digits, {task.title}", fontsize=13, fontweight="bold")
    seeds = len(next(iter(histories.values())))
    note = f"lines: mean over {seeds} seeds; bands: one standard deviation"
    figure.text(0.5, 0.005, note, ha="center", fontsize=9, color="0.35")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="lower center",
        bbox_to_anchor=(0.5, 0.02),
        ncols=4,
        frameon=False,
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def draw_case(axis, case, values):
    """Draws the mean over the rows of `values`, and a band of one standard deviation."""
    epochs = np.arange(1, values.shape[1] + 1)
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    colour = COLOURS[case.p > 0]
    style = {"lw": 1.4, "ls": (0, (4, 2))} if case.fused else {"lw": 4.5, "alpha": 0.4}
    axis.plot(epochs, mean, color=colour, label=label(case.p, case.fused), **style)
    axis.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.08, lw=0)


def plot_timing(timings, path):
    """Plots the time per training step of each setting, relative to unfused at p = 0, as a PNG."""
    figure, axis = plt.subplots(figsize=(10, 4))
    for i, (p, fused) in enumerate(timings[SETTINGS[0].key]):
        medians, errors, texts = [], [], []
        for setting in SETTINGS:
            floor = timings[setting.key][0.0, False]["median"]
            seconds = timings[setting.key][p, fused]
            low, median, high = (seconds[key] / floor for key in ("p20", "median", "p80"))
            medians.append(median)
            errors.append((median - low, high - median))
            texts.append(f"{1e3 * seconds['median']:.2f}")
        bars = axis.bar(
            np.arange(len(SETTINGS)) + 0.2 * (i - 1.5),
            medians,
            width=0.18,
            yerr=np.transpose(errors),
            color=COLOURS[p > 0],
            alpha=1 if fused else 0.45,
            error_kw={"lw": 1, "ecolor": "0.35", "capsize": 2},
            label=label(p, fused),
        )
        axis.bar_label(bars, texts, padding=2, fontsize=8)
    axis.axhline(1, color="0.4", lw=0.8, ls=":")
    axis.set_xticks(range(len(SETTINGS)), [s.title.replace(", ", "\n") for s in SETTINGS])
    axis.set_ylabel("relative to unfused, no dropout")
    axis.set_title("Time per training step (milliseconds above the bars)", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
