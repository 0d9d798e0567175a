"""Does dropout help, and what does it cost? Small networks on scikit-learn's handwritten digits.

    python -m examples.digits [--seeds N] [--epochs N] [--out DIR] [--quick]

It trains three tasks on 300 images: a two-layer network (Linear, ReLU, Dropout, Linear), a wide
network that overfits, and the wide network with a fifth of the training labels wrong. Each task is
trained with and without dropout, with plain `torch.nn` modules and with fused ones. A seed
determines the split, the initial weights and the order of the batches, so the cases are compared
seed by seed. p is the textbook value for hidden layers, 0.5 (Srivastava et al., 2014). The learning
rate was chosen on other seeds (100 to 104). Scores are from the last epoch, not from the best one.

It prints tables, and writes the tables, all numbers as JSON and the curves as PNG to `--out`.
"""

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch

from examples import digits_plots as plots
from examples import digits_report as report
from examples.digits_timing import SETTINGS, time_setting
from examples.digits_training import TASKS, cases, train_all
from examples.sweep.console import progress


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument("--epochs", type=int, help="epochs per run (default: 40)")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="output folder")
    parser.add_argument("--quick", action="store_true", help="3 seeds, 5 epochs, rough timing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.epochs = 3, arguments.epochs or 5
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2, because one seed has no standard deviation")
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    return arguments


def measure_times(seconds):
    """Returns {setting: {(p, fused): quantiles of the seconds per training step}}."""
    timings = {}
    with progress(len(SETTINGS), "timing") as bar:
        for setting in SETTINGS:
            timings[setting.key] = time_setting(setting, seconds)
            bar.update()
    return timings


def measure_scores(seeds, epochs):
    """Returns {case: one history per seed}."""
    table = [case for task in TASKS for case in cases(task, epochs)]
    with progress(seeds * len(table), "training") as bar:
        return train_all(table, seeds, bar.update)


def compare(scores):
    """Compares cases: dropout with no dropout, and fused with unfused at the same p."""
    find = {(case.task.key, case.p, case.fused): score for case, score in scores.items()}
    verdicts, agreement = {}, {}
    for case, score in scores.items():
        key = case.task.key
        if case.p:
            verdicts[case] = report.did_dropout_help(find[key, 0.0, case.fused], score)
        if case.fused:
            unfused = find[key, case.p, False]
            agreement[case] = report.paired_difference(unfused["val_acc"], score["val_acc"])
    return verdicts, agreement


def as_json(histories, scores, verdicts, agreement, timings):
    """Returns all measured values in plain lists and dictionaries."""
    return {
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "cases": [
            {
                **asdict(case),
                "final": {key: values.tolist() for key, values in scores[case].items()},
                "dropout": verdicts.get(case),
                "fused_minus_unfused": agreement.get(case),
                "history": histories[case],
            }
            for case in histories
        ],
        "seconds_per_step": [
            {
                **asdict(setting),
                "variants": [
                    {"p": p, "fused": fused, **quantiles}
                    for (p, fused), quantiles in timings[setting.key].items()
                ],
            }
            for setting in SETTINGS
        ],
    }


def main():
    arguments = parse_arguments()
    start = time.perf_counter()
    timings = measure_times(seconds=1 if arguments.quick else 6)
    histories = measure_scores(arguments.seeds, arguments.epochs)

    scores = {case: report.final_scores(runs) for case, runs in histories.items()}
    verdicts, agreement = compare(scores)
    text = report.full_report(scores, verdicts, agreement, timings, arguments.seeds)
    print(text)

    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "digits.txt").write_text(text + "\n", encoding="utf-8")
    results = as_json(histories, scores, verdicts, agreement, timings)
    (arguments.out / "digits.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
    for task in {case.task: None for case in histories}:
        runs = {case: histories[case] for case in histories if case.task == task}
        plots.plot_curves(task, runs, arguments.out / f"digits_{task.key}.png")
    plots.plot_timing(timings, arguments.out / "digits_timing.png")
    seconds = time.perf_counter() - start
    print(f"\nTables, numbers and curves are in {arguments.out}/ ({seconds:.0f} s)")


if __name__ == "__main__":
    main()
