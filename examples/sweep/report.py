"""The tables of a sweep, with explanations."""

import textwrap

import numpy as np

from examples.sweep.console import draw_table, spread

WIDTH = 100


def full_report(data, settings, scores, verdict):
    seeds = len(scores[0.0]["val_acc"])
    chosen = verdict["chosen_p"]
    return "\n\n".join(
        [
            fill(
                f"{data.title}: {data.train_rows} training rows, {data.test_rows} test rows, the "
                f"rest validation; hidden layers {', '.join(map(str, settings.hidden))}; "
                f"{settings.epochs} epochs; weight decay {settings.weight_decay:g}, L1 "
                f"{settings.l1:g}. Scores after the last epoch, mean ± standard deviation over "
                f"{seeds} seeds; MC: average of {settings.mc_samples} samples."
            ),
            score_table(scores),
            *diverged(scores),
            fill(
                "Differences to p = 0, seed by seed: mean difference in points with a joint 95 % "
                "confidence interval for all p; number of seeds with a better and with a worse "
                "validation accuracy, and the p-value of a sign test of these counts."
            ),
            change_table(verdict["changes"]),
            fill(
                f"p = {chosen:g} has the best validation accuracy of all p > 0. Results on the "
                "test rows, which were not used for this choice (95 % intervals):"
            ),
            test_table(scores, chosen, verdict["test"]),
            fill(
                f"Is dropout effective here? {verdict['effective'].capitalize()}: "
                f"{verdict['reason']}. Seeds share rows, so the intervals are for other seeds on "
                "this data set, not for other data."
            ),
        ]
    )


def fill(text):
    return textwrap.fill(text, WIDTH)


def diverged(scores):
    """Returns a list with a line about diverged runs, or an empty list."""
    counts = {p: int((~np.isfinite(score["train_loss"])).sum()) for p, score in scores.items()}
    broken = ", ".join(f"{count} at p = {p:g}" for p, count in counts.items() if count)
    return [f"Diverged runs, whose scores are included: {broken}."] if broken else []


def score_table(scores):
    """Formats a row for each p."""
    header = ["p", "train acc %", "val acc %", "gap", "val loss", "MC val acc %", "MC val loss"]
    rows = [
        [
            f"{p:g}",
            *(spread(score[name]) for name in ("train_acc", "val_acc", "gap")),
            spread(score["val_loss"], 3),
            spread(score["mc_val_acc"]),
            spread(score["mc_val_loss"], 3),
        ]
        for p, score in scores.items()
    ]
    return draw_table(header, rows, left=1)


def change_table(changes):
    """Formats a row for each p > 0."""
    header = ["p", "val acc, points", "verdict", "seeds", "sign test", "gap, points", "verdict"]
    rows = []
    for p, change in changes.items():
        val, gap = change["val_acc"], change["gap"]
        rows.append(
            [
                f"{p:g}",
                interval(val),
                val["verdict"],
                f"{val['wins']} : {val['losses']}",
                f"{val['sign_test']:.3f}",
                interval(gap),
                gap["verdict"],
            ]
        )
    return draw_table(header, rows, left=1)


def test_table(scores, chosen, test):
    """Formats test scores: p = 0, the chosen p, and the chosen p with a Monte Carlo average."""
    header = ["test", "acc %", "loss", "against", "acc, points", "verdict", "loss", "verdict"]
    rows = []
    for title, p, prefix, against in (
        ("p = 0", 0.0, "", ""),
        (f"p = {chosen:g}", chosen, "", "p = 0"),
        (f"p = {chosen:g}, MC", chosen, "mc_", f"p = {chosen:g}"),
    ):
        accuracy, loss = f"{prefix}test_acc", f"{prefix}test_loss"
        row = [title, spread(scores[p][accuracy]), spread(scores[p][loss], 3), against]
        for name, digits in ((accuracy, 2), (loss, 3)):
            row += [interval(test[name], digits), test[name]["verdict"]] if against else ["", ""]
        rows.append(row)
    return draw_table(header, rows, left=1)


def interval(difference, digits=2):
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
