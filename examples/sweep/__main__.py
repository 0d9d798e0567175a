"""Does dropout help, with which probability, and by how much?

It trains a multilayer perceptron of this package's modules on a data set of scikit-learn, for each
p and several seeds, and compares with p = 0 seed by seed. The best p is chosen on validation rows
and reported on test rows. It writes a table, a plot and all numbers to --out.
"""

import argparse
import importlib.util
import json
import math
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch

NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
DATA = ("digits", "breast_cancer")
PROBABILITIES, SEEDS, MC_SAMPLES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7), 10, 30
QUICK = {"p": (0.0, 0.2, 0.5), "seeds": 3, "epochs": 5, "mc_samples": 10}


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m examples.sweep", description=__doc__.split("\n\n")[0]
    )
    add = parser.add_argument
    add("--data", choices=DATA, default="digits", help="data set (default: digits)")
    add("--p", type=probability, nargs="+", help="values to compare with 0 (default: 0 to 0.7)")
    add("--seeds", type=integer_from(2), help=f"number of seeds (default: {SEEDS})")
    add("--epochs", type=integer_from(1), help="epochs per run (default: enough to overfit)")
    add(
        "--hidden",
        type=integer_from(1),
        nargs="+",
        default=[256, 256],
        help="units of each hidden layer",
    )
    add("--weight-decay", type=penalty, default=0.0, help="L2 penalty of the weights")
    add("--l1", type=penalty, default=0.0, help="L1 penalty of the weights")
    add("--mc-samples", type=integer_from(1), help=f"Monte Carlo samples (default: {MC_SAMPLES})")
    add("--out", type=Path, default=Path("sweep_output"), help="output folder")
    add("--json", action="store_true", help="print all numbers as JSON instead of the tables")
    add("--quick", action="store_true", help="3 seeds, 5 epochs, three p, to check that it runs")
    arguments = parser.parse_args(argv)

    full = {"p": PROBABILITIES, "seeds": SEEDS, "epochs": None, "mc_samples": MC_SAMPLES}
    for name, value in (QUICK if arguments.quick else full).items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.p = sorted({0.0, *arguments.p})
    if len(arguments.p) < 2:
        parser.error("argument --p: got only 0, but expected at least one other value")
    return arguments


def probability(text):
    p = float(text)
    if not 0 <= p < 1:
        raise argparse.ArgumentTypeError(f"p is {text}, but expected 0 <= p < 1")
    return p


def penalty(text):
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}, but expected a number that is not negative")
    return value


def integer_from(least):
    def integer(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"got {value}, but expected at least {least}")
        return value

    return integer


def check_needed():
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(
            f"python -m examples.sweep needs {', '.join(missing)}: pip install {' '.join(missing)}"
        )


def as_json(arguments, settings, scores, verdict):
    """Returns all measured values as JSON. NaN and infinity are null."""

    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(one) for key, one in value.items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    runs = [
        {"p": p, "seed": seed, **{name: float(values[seed]) for name, values in score.items()}}
        for p, score in scores.items()
        for seed in range(arguments.seeds)
    ]
    result = {
        "data": arguments.data,
        "settings": asdict(settings),
        "seeds": arguments.seeds,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "verdict": plain(verdict),
        "runs": [plain(run) for run in runs],
    }
    return json.dumps(result, indent=1, allow_nan=False)


def main(argv=None):
    arguments = parse_arguments(argv)
    check_needed()
    from examples.sweep.console import progress
    from examples.sweep.data import DATA
    from examples.sweep.plot import plot
    from examples.sweep.report import full_report
    from examples.sweep.training import Settings, run_all
    from examples.sweep.verdict import judge

    data = DATA[arguments.data]
    settings = Settings(
        tuple(arguments.hidden),
        arguments.epochs or data.epochs,
        data.learning_rate,
        arguments.weight_decay,
        arguments.l1,
        arguments.mc_samples,
    )
    # One thread is faster for small networks, and makes sums independent of the machine.
    torch.set_num_threads(1)
    with progress(arguments.seeds * len(arguments.p), "training") as bar:
        scores = run_all(data, settings, arguments.p, arguments.seeds, bar.update)
    verdict = judge(scores)

    text = full_report(data, settings, scores, verdict)
    numbers = as_json(arguments, settings, scores, verdict)
    print(numbers if arguments.json else text)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"sweep_{arguments.data}"
    path.with_suffix(".txt").write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".json").write_text(numbers + "\n", encoding="utf-8")
    plot(data, scores, verdict, path.with_suffix(".png"))
    print(f"\nThe table, the plot and the numbers are in {path}.*", file=sys.stderr)


if __name__ == "__main__":
    main()
