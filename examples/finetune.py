"""Fine-tunes a fused Hugging Face classifier: from which module of Python is a piece of code?

`python -m examples.finetune --out demo_output` shows how to use a model with `fused_dropout.fuse`
from pretraining to saving. The data are the sources of Python's standard library. Nothing is
downloaded.

- A small BERT is pretrained to classify thirty other modules, and saved.
- `BertForSequenceClassification.from_pretrained` loads it, and one line fuses it. It is fine-tuned
  on few labelled snippets, without dropout and with several p, with several seeds.
- The accuracy is measured on the last quarter of every file, which neither the training nor the
  tokenizer has seen.
- Unfused and fused steps are timed in turn.
- The model is unfused, saved, loaded without this package, and gives the same scores.

It writes a table and a plot.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no warning about the new head

import matplotlib
import torch
import transformers
from tqdm import tqdm

import fused_dropout as fd
from examples import finetune_data as data
from examples import finetune_training as training
from examples.lm import smooth

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLOURS = ("#cf5c36", "#8fb8de", "#5b8fc7", "#17457a", "#0b1f38")  # by increasing p, from p = 0
P = 0.1  # in the timed steps


def parse_arguments():
    parser = argparse.ArgumentParser(prog="python -m examples.finetune", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("demo_output"), help="folder for the table and the plot")
    add("--pretraining-steps", type=int, default=600)
    add("--steps", type=int, default=200, help="steps of fine-tuning")
    add("--seeds", type=int, default=3, help="runs with each p")
    add("--p", type=float, nargs="+", default=[0.1, 0.3], help="values to compare with p = 0")
    add("--quick", action="store_true", help="a few steps of each, to check that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.pretraining_steps, arguments.steps, arguments.seeds = 10, 10, 1
    if not 0 < len(arguments.p) < len(COLOURS) or not all(0 < p < 1 for p in arguments.p):
        parser.error(f"--p: expected one to {len(COLOURS) - 1} values between 0 and 1")
    return arguments


def percent(values):
    """Formats mean and standard deviation."""
    values = [100 * value for value in values]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread} %"


def by_rate(runs):
    """Returns {p: its runs, in the order of their seeds}."""
    rates = dict.fromkeys(run.p for run in runs)
    return {p: [run for run in runs if run.p == p] for p in rates}


def accuracies(runs):
    return [run.validation[-1][1] for run in runs]


def accuracy_table(runs):
    """Formats a line for each p, with the effect of dropout."""
    groups = by_rate(runs)
    lines = [
        f"{'fused, p':>10}{'recognised':>16}{'training loss':>15}   difference to p = 0, each seed"
    ]
    for p, group in groups.items():
        loss = statistics.fmean(statistics.fmean(run.training[-10:]) for run in group)
        gains = "   ".join(f"{100 * gain:+.1f}" for gain in gains_of(groups, p)) if p else ""
        lines.append(f"{p:10g}{percent(accuracies(group)):>16}{loss:15.3f}   {gains}")
    return "\n".join(lines)


def gains_of(groups, p):
    """Returns accuracy minus accuracy without dropout for each seed. All else is equal."""
    pairs = zip(accuracies(groups[p]), accuracies(groups[0.0]), strict=True)
    return [with_dropout - without for with_dropout, without in pairs]


def verdict(runs):
    """Returns the effect of dropout in words, for the best p."""
    groups = by_rate(runs)
    mean, best = max((statistics.fmean(gains_of(groups, p)), p) for p in groups if p)
    gains = gains_of(groups, best)
    text = f"Of the p tried {best:g} did best: {100 * mean:+.1f} points on average"
    if len(gains) < 2:
        return f"{text}, from a single seed, which is not significant."
    error = statistics.stdev(gains) / len(gains) ** 0.5
    text += f", with a standard error of {100 * error:.1f} over {len(gains)} seeds."
    if mean > 2 * error and min(gains) > 0:
        return f"{text} Dropout helped."
    if mean < -2 * error and max(gains) < 0:
        return f"{text} Dropout was harmful."
    return f"{text} This is within the noise: no effect is shown."


def time_table(timed):
    first = statistics.median(timed[0].times)
    lines = [f"{'':20}{'ms a step':>11}{'to the first':>14}"]
    for run in timed:
        median = statistics.median(run.times)
        name = f"{'fused' if run.fused else 'unfused'}, p = {run.p:g}"
        lines.append(f"{name:20}{1e3 * median:11.1f}{median / first:14.2f}")
    return "\n".join(lines)


def save_and_load(run, source):
    """Unfuses, saves and loads a model without this package. Returns the comparison in words."""
    before = training.predict(run.model, source.held_out)
    with tempfile.TemporaryDirectory() as folder:
        fd.unfuse(run.model).save_pretrained(folder)
        loaded = transformers.BertForSequenceClassification.from_pretrained(folder)
        after = training.predict(loaded, source.held_out)
    if not torch.equal(before, after):
        raise RuntimeError("the model that was saved and loaded gives different scores")
    return (
        f"Unfused, saved and loaded again, the model gives bitwise the same scores for all "
        f"{len(before):,} held-out snippets."
    )


def classes(run, source):
    """Returns the classes that a run recognises best and worst, in words."""
    right = training.predict(run.model, source.held_out).argmax(1) == source.held_out_labels
    shares = [
        (right[source.held_out_labels == label].float().mean().item(), name)
        for label, name in enumerate(data.CLASSES)
    ]
    shares.sort(reverse=True)
    best, worst = (
        ", ".join(f"{name} {100 * share:.0f} %" for share, name in part)
        for part in (shares[:3], shares[-3:])
    )
    return f"In the best run (p = {run.p:g}, seed {run.seed}): {best}, …, {worst}."


def plot(pretraining, runs, timed, path):
    """Plots curves and step times side by side, as a PNG."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(14, 4.2), gridspec_kw={"width_ratios": (1.2, 2, 1)}
    )
    left.plot(*smooth(pretraining), color="#555555")
    left.set_title("pretraining: loss")
    for colour, (p, group) in zip(COLOURS, by_rate(runs).items(), strict=False):
        curves = [[100 * accuracy for _, accuracy in run.validation] for run in group]
        steps = [step for step, _ in group[0].validation]
        for curve in curves:
            middle.plot(steps, curve, color=colour, alpha=0.3, lw=1)
        mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
        middle.plot(steps, mean, color=colour, lw=2.5, label=f"p = {p:g}")
    middle.set_title("fine-tuning: held-out snippets recognised, % (pale: each seed)")
    middle.legend()
    for axis in (left, middle):
        axis.set_xlabel("step")
    names = [f"{'fused' if run.fused else 'unfused'}\np = {run.p:g}" for run in timed]
    bars = right.bar(
        names,
        [1e3 * statistics.median(run.times) for run in timed],
        color=[COLOURS[2] if run.fused else "#999999" for run in timed],
    )
    right.bar_label(bars, fmt="%.0f")
    right.set_title("ms a step")
    right.tick_params(axis="x", labelsize=8)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main():
    arguments = parse_arguments()
    transformers.utils.logging.disable_progress_bar()
    start = time.perf_counter()
    source = data.load()
    rates = [0.0, *arguments.p]
    timed_steps = 3 if arguments.quick else 15
    total = arguments.pretraining_steps + len(rates) * arguments.seeds * arguments.steps
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=total, desc="pretraining", unit="step") as bar,
    ):
        pretraining = training.pretrain(source, arguments.pretraining_steps, folder, bar.update)
        bar.set_description("fine-tuning")
        runs = training.fine_tune(
            source, folder, rates, arguments.seeds, arguments.steps, bar.update
        )
        timed = training.time_steps(source, folder, P, timed_steps)
    tokens = sum(map(len, source.pretraining))
    parameters = sum(parameter.numel() for parameter in runs[0].model.parameters())
    text = "\n\n".join(
        [
            f"{len(data.CLASSES)} classes; {tokens:,} tokens to pretrain on, "
            f"{len(data.CLASSES) * training.LABELLED:,} labelled snippets of {data.LENGTH} tokens, "
            f"{len(source.held_out):,} held out; {parameters:,} parameters",
            str(runs[-1].report),
            f"pretraining on {len(data.PRETRAINING_CLASSES)} other classes: loss from "
            f"{pretraining[0]:.2f} to {statistics.fmean(pretraining[-20:]):.2f} nats in "
            f"{len(pretraining)} steps",
            f"fine-tuning: {arguments.steps} steps, {arguments.seeds} seeds; by chance "
            f"{100 / len(data.CLASSES):.1f} % are recognised",
            accuracy_table(runs),
            verdict(runs),
            classes(max(runs, key=lambda run: run.validation[-1][1]), source),
            time_table(timed),
            save_and_load(runs[-1], source),
            f"{torch.get_num_threads()} threads, {time.perf_counter() - start:.0f} s",
        ]
    )
    print(text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "finetune.txt").write_text(text + "\n", encoding="utf-8")
    plot(pretraining, runs, timed, arguments.out / "finetune.png")
    print(f"\nThe table and the plot are in {arguments.out}/")


if __name__ == "__main__":
    main()
