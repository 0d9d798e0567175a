"""Statistics and tables of `examples.digits`."""

import numpy as np

from examples.digits_timing import SETTINGS
from examples.digits_training import BATCH, TRAINING_IMAGES
from examples.sweep.console import draw_table, spread
from examples.sweep.statistics import paired_difference

BUSY = "The times vary a lot, as on a busy machine. Run again on an idle machine."


# ---------------------------------------------------------------- statistics


def final_scores(histories):
    """Returns the scores after the last epoch, one per seed. Accuracies and gaps are in percent."""
    last = {
        key: np.array([history[key][-1] for history in histories])
        for key in ("train_acc", "val_acc", "val_loss")
    }
    train, val = 100 * last["train_acc"], 100 * last["val_acc"]
    return {"train_acc": train, "val_acc": val, "gap": train - val, "val_loss": last["val_loss"]}


def did_dropout_help(without, with_dropout):
    """Compares two cases that differ in `p`: paired differences, and "yes", "no" or "within noise".

    "yes" means that the validation accuracy rises and the gap between training and validation
    shrinks, both significantly. "no" means that the validation accuracy falls significantly.
    """
    change = {key: paired_difference(without[key], with_dropout[key]) for key in without}
    val, gap = change["val_acc"]["verdict"], change["gap"]["verdict"]
    if val == "down":
        helped = "no"
    elif val == "up" and gap == "down":
        helped = "yes"
    else:
        helped = "within noise"
    return {"helped": helped, "change": change}


# ---------------------------------------------------------------- tables


def signed(difference, digits=2):
    """Mean and standard error of a paired difference."""
    return f"{difference['mean']:+.{digits}f} ± {difference['standard_error']:.{digits}f}"


def accuracy_table(scores, timings):
    """Formats a row for each case: final scores over the seeds and the time of a training step."""
    step_times = {
        (setting.hidden, *variant): quantiles["median"]
        for setting in SETTINGS
        for variant, quantiles in timings[setting.key].items()
    }
    header = ["network", "p", "code", "train acc %", "val acc %", "gap", "val loss", "ms/step"]
    rows, task = [], None
    for case, score in scores.items():
        if task not in (None, case.task):
            rows.append(None)
        title = "" if task == case.task else case.task.title
        task = case.task
        rows.append(
            [
                title,
                f"{case.p:g}",
                case.code,
                spread(score["train_acc"]),
                spread(score["val_acc"]),
                spread(score["gap"]),
                spread(score["val_loss"], 3),
                f"{1e3 * step_times[task.hidden, case.p, case.fused]:.2f}",
            ]
        )
    return draw_table(header, rows, left=3)


def verdict_table(verdicts):
    """Formats whether dropout helped, with the changes of validation accuracy, gap and loss."""
    header = ["network", "code", "dropout helped", "val acc, points", "gap, points", "val loss"]
    rows = []
    for case, verdict in verdicts.items():
        change = verdict["change"]
        rows.append(
            [
                case.task.title,
                case.code,
                verdict["helped"],
                signed(change["val_acc"]),
                signed(change["gap"]),
                signed(change["val_loss"], 3),
            ]
        )
    return draw_table(header, rows, left=3)


def agreement_table(differences):
    """Formats fused minus unfused validation accuracy, for each task and p."""
    header = ["network", "p", "val acc, points", "fused minus unfused"]
    rows = [
        [case.task.title, f"{case.p:g}", signed(difference), difference["verdict"]]
        for case, difference in differences.items()
    ]
    return draw_table(header, rows, left=1)


def timing_table(timings):
    """Formats the milliseconds per training step, the cost of dropout and the speed-up."""
    p = SETTINGS[0].p
    variants = [(0.0, False), (p, False), (0.0, True), (p, True)]
    header = ["training step, ms"]
    header += [f"{'fused' if fused else 'unfused'} p={q:g}" for q, fused in variants]
    header += ["cost unfused", "cost fused", "speed-up"]
    rows = []
    for setting in SETTINGS:
        floor, unfused, _, fused = times = [timings[setting.key][v]["median"] for v in variants]
        rows.append(
            [
                setting.title,
                *(f"{1e3 * seconds:.2f}" for seconds in times),
                *(f"{100 * (seconds / floor - 1):+.0f} %" for seconds in (unfused, fused)),
                f"{unfused / fused:.2f} x",
            ]
        )
    return draw_table(header, rows, left=1)


def is_noisy(timings):
    """Whether a fifth of the steps of any variant took more than 1.5 times its median."""
    return any(
        quantiles["p80"] > 1.5 * quantiles["median"]
        for variants in timings.values()
        for quantiles in variants.values()
    )


def full_report(scores, verdicts, agreement, timings, seeds):
    """Returns all tables with explanations."""
    return "\n".join(
        [
            f"Handwritten digits: {TRAINING_IMAGES} training images, scores after the last epoch,",
            f"mean ± standard deviation over {seeds} seeds; ms/step: median at batch {BATCH}.",
            "",
            accuracy_table(scores, timings),
            "",
            "Training accuracy is measured on the labels used for training. With wrong labels, a",
            "network that has learnt only the digits gets 80 %, one that memorises labels 100 %.",
            "",
            'Effect of dropout: paired differences, mean ± standard error. "yes" means that the',
            "validation accuracy rose and the gap shrank, both outside a 95 % t interval.",
            "",
            verdict_table(verdicts),
            "",
            "Fused and unfused modules compared: same weights and batches, different masks.",
            "",
            agreement_table(agreement),
            "",
            "Cost of dropout: medians of forward, loss, backward and optimiser step together.",
            "Costs are relative to unfused at p = 0. Speed-up is unfused / fused, both at p.",
            "",
            timing_table(timings),
            *([BUSY] if is_noisy(timings) else []),
        ]
    )
