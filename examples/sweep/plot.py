"""The plot of a sweep."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BLUE, ORANGE, GREY = "#2f6db3", "#cf5c36", "0.45"


def plot(data, scores, verdict, path):
    """Plots accuracies, differences to p = 0 and the gap for each p, as a PNG."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4))
    probabilities = list(scores)
    for name, label, colour, style in (
        ("train_acc", "training", ORANGE, "o-"),
        ("val_acc", "validation", BLUE, "o-"),
        ("mc_val_acc", "validation, Monte Carlo", BLUE, "s--"),
    ):
        means = [scores[p][name].mean() for p in probabilities]
        deviations = [scores[p][name].std(ddof=1) for p in probabilities]
        left.errorbar(
            probabilities, means, deviations, fmt=style, color=colour, ms=4, capsize=3, label=label
        )
    left.set_title("accuracy, % (bars: standard deviation)", fontsize=10)
    left.legend(frameon=False, fontsize=8)

    for axis, name, title in (
        (middle, "val_acc", "validation accuracy, points above p = 0"),
        (right, "gap", "gap to training, points above p = 0"),
    ):
        for p, change in verdict["changes"].items():
            difference = scores[p][name] - scores[0.0][name]
            axis.plot([p] * len(difference), difference, ".", color=GREY, alpha=0.5, ms=4)
            change = change[name]
            colour = GREY if change["verdict"] in ("within noise", "equal", "undefined") else BLUE
            axis.errorbar(
                p,
                change["mean"],
                [[change["mean"] - change["low"]], [change["high"] - change["mean"]]],
                fmt="o",
                color=colour,
                capsize=4,
            )
        axis.axhline(0, color="0.3", lw=0.8, ls=":")
        axis.set_title(title, fontsize=10)
    middle.axvline(verdict["chosen_p"], color=ORANGE, lw=0.8, ls="--", zorder=0)
    for axis in (left, middle, right):
        axis.set_xlabel("p, probability to drop")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{data.title}: dropout effective? {verdict['effective']}", fontsize=12, fontweight="bold"
    )
    note = "dots: seeds; bars: joint 95 % intervals for all p, blue if they do not contain 0"
    figure.text(0.99, 0.01, note, ha="right", fontsize=8, color="0.35")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
