"""Fingerprints of functions, and the command that prints them."""

import subprocess
import sys

import pytest
from torch import nn

from fused_dropout.fusion import fingerprint


def same_code(self, x, p=0.5):
    # The fingerprint of `with_annotations` is the same.
    return self.drop(x, p)


def with_annotations(self, x: object, p: float = 0.5) -> object:
    """A docstring."""
    return self.drop(
        x,
        p,
    )


def another_default(self, x, p=0.1):
    return self.drop(x, p)


def test_only_the_code_counts():
    wanted = fingerprint.fingerprint_of(same_code)
    assert len(wanted) == 16 and int(wanted, 16) >= 0
    assert fingerprint.fingerprint_of(with_annotations) == wanted
    assert fingerprint.fingerprint_of(another_default) != wanted


def test_functions_without_source():
    assert fingerprint.fingerprint_of(len) is None
    assert fingerprint.fingerprint_of(eval("lambda x: x")) is None


def test_command_prints_classes_and_functions(capsys):
    fingerprint.main(["torch.nn.Linear", "torch.nn.functional.dropout"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{fingerprint.fingerprint_of(nn.Linear.forward)}  torch.nn.Linear"
    wanted = fingerprint.fingerprint_of(nn.functional.dropout)
    assert second == f"{wanted}  torch.nn.functional.dropout"


def test_command_in_a_process():
    """With warnings as errors: runpy warns if the package imports the file before it runs."""
    command = [
        sys.executable,
        "-W",
        "error::RuntimeWarning",
        "-m",
        "fused_dropout.fusion.fingerprint",
    ]
    output = subprocess.check_output([*command, "torch.nn.Dropout"], text=True)
    assert output == f"{fingerprint.fingerprint_of(nn.Dropout.forward)}  torch.nn.Dropout\n"


@pytest.mark.parametrize(
    "name, text",
    [
        ("no_such_package.Layer", "no_such_package.Layer cannot be imported: No module named"),
        ("torch.nn.NoSuchLayer", "torch.nn.NoSuchLayer cannot be imported: module 'torch.nn' has"),
        ("not a name", "not a name cannot be imported"),
        ("torch.nn", "torch.nn is a module, but expected a class or a function"),
        ("torch.float32", "torch.float32 is a dtype, but expected a class or a function"),
        ("torch.Generator", "torch.Generator is a class without a method forward"),
        ("torch.relu", "torch.relu is a builtin_function_or_method, but expected a class or"),
    ],
)
def test_command_errors(capsys, name, text):
    with pytest.raises(SystemExit) as caught:
        fingerprint.main([name])
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert not output.out and text in output.err
