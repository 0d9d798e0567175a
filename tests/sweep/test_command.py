"""``python -m examples.sweep``: its runs, its files, its errors."""

import importlib.util
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fused_dropout
from examples.sweep import __main__ as sweep
from examples.sweep.data import DATA
from examples.sweep.training import Settings, train
from tests.module_helpers import drawing_nothing

ROOT = Path(__file__).resolve().parents[2]


def run(capsys, tmp_path, *options):
    sweep.main(["--quick", "--out", str(tmp_path), "--hidden", "32", *options])
    return capsys.readouterr()


def tables(text):
    """Each table as a list of rows, a row as a list of cells; the first row is the header."""
    found = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.splitlines()
        if len(lines) > 2 and set(lines[1]) == {"-", " "}:
            ends = [match.span() for match in re.finditer("-+", lines[1])]
            lines = [line for i, line in enumerate(lines) if i != 1]
            found.append([[line[a:b].strip() for a, b in ends] for line in lines])
    return found


@pytest.mark.parametrize("data", sweep.DATA)
def test_quick(capsys, tmp_path, data):
    output = run(capsys, tmp_path, "--data", data)
    assert (tmp_path / f"sweep_{data}.txt").read_text() == output.out
    assert (tmp_path / f"sweep_{data}.png").read_bytes().startswith(b"\x89PNG")
    assert "training: 100% 9/9" in output.err
    numbers = json.loads((tmp_path / f"sweep_{data}.json").read_text())

    score_table, change_table, test_table = tables(output.out)
    assert [row[0] for row in score_table] == ["p", "0", "0.2", "0.5"]
    for row in score_table[1:]:
        runs = [one for one in numbers["runs"] if one["p"] == float(row[0])]
        assert [one["seed"] for one in runs] == [0, 1, 2]
        for cell, name, digits in zip(
            row[1:],
            ("train_acc", "val_acc", "gap", "val_loss", "mc_val_acc", "mc_val_loss"),
            (1, 1, 1, 3, 1, 3),
            strict=True,
        ):
            values = [one[name] for one in runs]
            mean = sum(values) / 3
            deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
            assert cell == f"{mean:.{digits}f} ± {deviation:.{digits}f}"
        assert all(one["gap"] == one["train_acc"] - one["val_acc"] for one in runs)
    assert [row[0] for row in change_table] == ["p", "0.2", "0.5"]
    chosen = numbers["verdict"]["chosen_p"]
    assert [row[0] for row in test_table] == ["test", "p = 0", f"p = {chosen}", f"p = {chosen}, MC"]
    last = " ".join(output.out.split("\n\n")[-1].split())
    effective, reason = (numbers["verdict"][name] for name in ("effective", "reason"))
    assert f"Is dropout effective here? {effective.capitalize()}: {reason}." in last


def test_as_a_module(tmp_path):
    # From a folder with the package under test, which need not be the source folder's.
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "fused_dropout").symlink_to(Path(fused_dropout.__file__).parent)
    command = [sys.executable, "-m", "examples.sweep", "--quick", "--epochs", "1", "--json"]
    command += ["--p", "0.5", "--seeds", "2", "--hidden", "8", "4", "--out", str(tmp_path)]
    command += ["--weight-decay", "1e-3", "--l1", "1e-4", "--mc-samples", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert numbers["settings"] == {
        "hidden": [8, 4],
        "epochs": 1,
        "learning_rate": 0.05,
        "weight_decay": 1e-3,
        "l1": 1e-4,
        "mc_samples": 3,
    }
    assert [(one["p"], one["seed"]) for one in numbers["runs"]] == [
        (0, 0),
        (0, 1),
        (0.5, 0),
        (0.5, 1),
    ]


def test_deterministic(capsys, tmp_path):
    options = ("--data", "breast_cancer", "--json", "--seeds", "2")
    first = run(capsys, tmp_path, *options).out
    torch.manual_seed(123)
    assert run(capsys, tmp_path, *options).out == first


@pytest.mark.parametrize(
    "options, text",
    [
        (["--data", "iris"], "argument --data: invalid choice: 'iris'"),
        (["--p", "1"], "argument --p: p is 1, but expected 0 <= p < 1"),
        (["--p", "-0.1"], "argument --p: "),
        (["--p", "nan"], "argument --p: p is nan"),
        (["--p", "half"], "argument --p: invalid probability value: 'half'"),
        (["--p", "0"], "argument --p: got only 0, but expected at least one other value"),
        (["--seeds", "1"], "argument --seeds: got 1, but expected at least 2"),
        (["--seeds", "2.5"], "argument --seeds: invalid integer value: '2.5'"),
        (["--epochs", "0"], "argument --epochs: got 0, but expected at least 1"),
        (["--hidden", "0"], "argument --hidden: got 0, but expected at least 1"),
        (["--mc-samples", "0"], "argument --mc-samples: got 0"),
        (["--l1", "-1"], "argument --l1: "),
        (["--weight-decay", "inf"], "argument --weight-decay: got inf, but expected a number"),
    ],
)
def test_bad_arguments(capsys, options, text):
    with pytest.raises(SystemExit) as exit:
        sweep.parse_arguments(options)
    assert exit.value.code == 2
    assert text in capsys.readouterr().err


def test_defaults():
    arguments = sweep.parse_arguments([])
    assert arguments.p == [0.0, 0.1, 0.2, 0.3, 0.5, 0.7]
    assert (arguments.seeds, arguments.epochs, arguments.hidden) == (10, None, [256, 256])
    assert sweep.parse_arguments(["--quick", "--seeds", "4"]).seeds == 4
    assert sweep.parse_arguments(["--p", "0.5", "0.1", "0.5"]).p == [0.0, 0.1, 0.5]


def test_missing_packages(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("sklearn", "tqdm") else real(name),
    )
    with pytest.raises(
        SystemExit, match=r"needs scikit-learn, tqdm.*pip install scikit-learn tqdm$"
    ):
        sweep.main(["--out", str(tmp_path)])


def test_the_package_needs_torch_alone():
    """None in sys.modules makes an import fail. The options need no other package either."""
    code = f"""if True:
        import sys
        sys.path.append({str(ROOT)!r})
        sys.modules.update(dict.fromkeys(["sklearn", "scipy", "matplotlib", "tqdm"]))
        import fused_dropout as fd, torch
        print(fd.mc_dropout(fd.MLP(2, 4, 3), torch.ones(5, 2)).mean.shape)
        from examples.sweep.__main__ import parse_arguments
        parse_arguments([])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([5, 3])" in done.stdout


def test_diverged_runs_are_told(capsys, tmp_path):
    options = ("--data", "digits", "--weight-decay", "1e6")
    output = run(capsys, tmp_path, *options)
    assert "Diverged runs" in output.out and "3 at p = 0.5" in output.out
    numbers = json.loads((tmp_path / "sweep_digits.json").read_text())
    assert numbers["runs"][0]["train_loss"] is None


# ---------------------------------------------------------------- data and training


def row_set(x):
    return {tuple(row) for row in x.tolist()}


@pytest.mark.parametrize("name", DATA)
def test_splits(name):
    data = DATA[name]
    first, second = data.split(0), data.split(1)
    everything = len(data.load(return_X_y=True)[0])
    for parts in (first, second):
        assert sum(len(y) for _, y in parts.values()) == everything
        assert len(parts["train"][1]) == data.train_rows
        shares = [torch.bincount(y).double() / len(y) for _, y in parts.values()]
        for share in shares:
            torch.testing.assert_close(share, shares[1], atol=0.03, rtol=0)
    assert torch.equal(first["test"][1], second["test"][1])
    assert not torch.equal(first["train"][0], second["train"][0])
    rows = {part: row_set(x) for part, (x, _) in first.items()}
    assert (
        not rows["train"] & rows["val"] | rows["train"] & rows["test"] | rows["val"] & rows["test"]
    )


SETTINGS = Settings((16,), 3, 0.05, 0.0, 0.0, 5)


def test_runs_depend_on_p_and_seed_alone():
    parts = DATA["digits"].split(0)
    torch.manual_seed(9)
    with drawing_nothing():
        first = train(parts, SETTINGS, 0.5, 0)
    torch.manual_seed(10)
    assert train(parts, SETTINGS, 0.5, 0) == first
    assert train(parts, SETTINGS, 0.5, 1) != first
    assert train(parts, SETTINGS, 0.2, 0) != first


def test_without_dropout_the_average_is_the_evaluation():
    scores = train(DATA["digits"].split(0), SETTINGS, 0.0, 0)
    for name in ("val_acc", "val_loss", "test_acc", "test_loss"):
        assert scores[name] == scores[f"mc_{name}"]


@pytest.mark.parametrize("penalty", [{"weight_decay": 5.0}, {"l1": 1.0}])
def test_penalties_shrink_the_weights(penalty):
    """Until nothing but the share of the classes is left."""
    scores = train(DATA["digits"].split(0), replace(SETTINGS, epochs=20, **penalty), 0.0, 0)
    assert scores["train_loss"] == pytest.approx(math.log(10), abs=0.05)
