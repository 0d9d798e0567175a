"""Fingerprints of functions, and the command that prints them."""

import inspect
import subprocess
import sys
import textwrap
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import dropout

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


def first(self, x, *args, scale=1, **kwargs):
    residual = x
    x, weights = self.attend(x, mask=None, scale=scale, **kwargs)
    x = nn.functional.dropout(x, p=self.p, training=self.training)
    for layer in self.layers:
        x = layer(x)
    return residual + x, weights


def with_other_names(self, x, *rest, scale=1, **options):
    before: object = x
    x, _ = self.attend(x, scale=scale, mask=None, **options)
    x = F.dropout(x, training=self.training, p=self.p)
    "A text that is no docstring."
    for each in self.layers:
        x = each(x)
    return before + x, _


def with_names_of_torch(self, x, *args, scale=1, **kwargs):
    residual = x
    x, weights = self.attend(x, mask=None, scale=scale, **kwargs)
    x = torch.nn.functional.dropout(x, p=self.p, training=self.training)
    for layer in self.layers:
        x = layer(x)
    return residual + x, weights


def with_the_function_imported(self, x, *args, scale=1, **kwargs):
    residual = x
    x, weights = self.attend(x, mask=None, scale=scale, **kwargs)
    x = dropout(x, p=self.p, training=self.training)
    for layer in self.layers:
        x = layer(x)
    return residual + x, weights


@pytest.mark.parametrize(
    "other", [with_other_names, with_names_of_torch, with_the_function_imported]
)
def test_names_and_the_order_of_keywords_do_not_count(other):
    assert fingerprint.fingerprint_of(other) == fingerprint.fingerprint_of(first)


def _fingerprint_of_text(text, **names):
    """The fingerprint of a ``forward`` with global names that are imported in the text."""
    source = f"{names.get('imports', '')}\nclass Layer(Base):\n" + textwrap.indent(text, "    ")
    return fingerprint.fingerprints_in(source)["Layer"]


ADD = """
def forward(self, x, y):
    a = self.f(x)
    b = self.f(y)
    return a + b
"""


@pytest.mark.parametrize(
    "old, new",
    [
        ("x, y", "y, x"),
        ("x, y", "x, z"),
        ("b = self.f(y)", "a = self.f(y)"),
        ("b = self.f(y)", "b = self.f(x)"),
        ("return a + b", "return b + a"),
        ("return a + b", "a += b\n    return a"),
        ("return a + b", "return a + c"),
        ("self.f(y)", "self.g(y)"),
        ("self.f(y)", "F.gelu(y)"),
        ("self.f(y)", "self.f(y=y)"),
    ],
)
def test_what_changes_the_result_counts(old, new):
    assert old in ADD
    assert _fingerprint_of_text(ADD) != _fingerprint_of_text(ADD.replace(old, new, 1))


def test_swapped_locals_count():
    swapped = ADD.replace("a + b", "b + a")
    renamed = swapped.replace("a = ", "t = ").replace("b = ", "a = ").replace("b + a", "a + t")
    assert _fingerprint_of_text(renamed) == _fingerprint_of_text(swapped)
    assert _fingerprint_of_text(renamed) != _fingerprint_of_text(ADD)


IMPORTS = [
    ("import torch", "torch.nn.functional.gelu"),
    ("import torch.nn.functional", "torch.nn.functional.gelu"),
    ("import torch.nn as nn", "nn.functional.gelu"),
    ("from torch import nn", "nn.functional.gelu"),
    ("import torch.nn.functional as F", "F.gelu"),
    ("from torch.nn import functional as f", "f.gelu"),
    ("from torch.nn.functional import gelu as act", "act"),
]


@pytest.mark.parametrize("imports, name", IMPORTS)
def test_names_of_torch_in_a_file(imports, name):
    found = _fingerprint_of_text(ADD.replace("self.f(y)", f"{name}(y)"), imports=imports)
    wanted = ADD.replace("self.f(y)", "F.gelu(y)")
    assert found == _fingerprint_of_text(wanted, imports="import torch.nn.functional as F")
    assert found != _fingerprint_of_text(wanted, imports="import other.functional as F")
    shadowed = ADD.replace("self.f(y)", f"{name}(y)").replace("x, y", f"x, y, {name.split('.')[0]}")
    assert _fingerprint_of_text(shadowed, imports=imports) != found


def test_a_global_name_with_another_value_counts():
    def copy_with(**names):
        return type(first)(first.__code__, {**first.__globals__, **names}, "first")

    assert fingerprint.fingerprint_of(copy_with()) == fingerprint.fingerprint_of(first)
    other = types.SimpleNamespace(functional=None)
    assert fingerprint.fingerprint_of(copy_with(nn=other)) != fingerprint.fingerprint_of(first)


def test_the_fingerprints_of_a_file_are_those_of_its_classes():
    path = inspect.getsourcefile(nn.Linear)
    with open(path, encoding="utf-8") as file:
        found = fingerprint.fingerprints_in(file.read())
    assert found["Linear"] == fingerprint.fingerprint_of(nn.Linear.forward)
    assert found["Bilinear"] == fingerprint.fingerprint_of(nn.Bilinear.forward)


def test_functions_without_source():
    assert fingerprint.fingerprint_of(len) is None
    assert fingerprint.fingerprint_of(eval("lambda x: x")) is None


def test_command_prints_classes_and_functions(capsys):
    fingerprint.main(["torch.nn.Linear", "torch.nn.functional.dropout"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{fingerprint.fingerprint_of(nn.Linear.forward)}  torch.nn.Linear"
    wanted = fingerprint.fingerprint_of(nn.functional.dropout)
    assert second == f"{wanted}  torch.nn.functional.dropout"


def test_command_prints_the_classes_of_a_file(capsys):
    path = inspect.getsourcefile(nn.Dropout)
    fingerprint.main([path])
    wanted = f"{fingerprint.fingerprint_of(nn.Dropout2d.forward)}  Dropout2d"
    assert wanted in capsys.readouterr().out.splitlines()


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
        ("no_such_file.py", "No such file or directory: 'no_such_file.py'"),
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
