"""``register_pattern``, and how the patterns of libraries are found and imported."""

import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.fusion import patterns, registry
from tests.fusion.fusing import classes, mlp, uses_kernels

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def own_patterns():
    """Removes the patterns that a test registers."""
    before = list(registry._PATTERNS)
    yield
    registry._PATTERNS[:] = before


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.drop = nn.Linear(8, 4), nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(F.gelu(self.fc(x)))


class FusedHead(Head):
    def forward(self, x):
        x = F.linear(x, self.fc.weight)
        return FF.bias_act_dropout(x, self.fc.bias, self.drop.p, "gelu", self.drop.training)


def test_own_pattern(own_patterns):
    fd.register_pattern(Head, FusedHead)
    model = nn.ModuleDict({"head": Head(), "mlp": mlp()})
    report = fd.fuse(model, "own")
    assert [(p.name, p.group, p.text) for p in report.fused] == [("head", "own", "by FusedHead")]
    assert type(model.head) is FusedHead and isinstance(model.head, Head)
    assert uses_kernels(model.head, X)
    assert fd.fuse(model, "own").fused[0].text == "is already fused"
    assert type(pickle.loads(pickle.dumps(model)).head) is FusedHead
    assert type(fd.unfuse(model).head) is Head


def test_own_pattern_precedes_built_in_and_earlier_ones(own_patterns):
    class Quick(nn.Dropout):
        pass

    class Quicker(nn.Dropout):
        pass

    fd.register_pattern(nn.Dropout, Quick)
    fd.register_pattern(nn.Dropout, Quicker)
    drop = nn.Dropout()
    fd.fuse(drop)
    assert type(drop) is Quicker
    assert type(fd.unfuse(drop)) is nn.Dropout


def test_own_pattern_does_not_match_subclasses(own_patterns):
    class Other(Head):
        pass

    fd.register_pattern(Head, FusedHead)
    assert not fd.fuse(Other(), "own").sites


def test_check(own_patterns):
    asked = []

    def check(module):
        asked.append(module)
        return "p is large" if module.drop.p > 0.5 else None

    fd.register_pattern(Head, FusedHead, check)
    model = nn.ModuleList([Head(), Head()])
    model[1].drop.p = 0.9
    report = fd.fuse(model, "own")
    assert asked == list(model)
    assert [(p.fused, p.text) for p in report.sites] == [
        (True, "by FusedHead"),
        (False, "p is large"),
    ]
    assert [type(one) for one in model] == [FusedHead, Head]
    with pytest.raises(fd.FusionError, match="1: Head: p is large"):
        fd.fuse(model, "own", strict=True)


@pytest.mark.parametrize("result", [True, False, 3, ["text"], b"text"], ids=repr)
def test_check_that_returns_a_wrong_type(own_patterns, result):
    fd.register_pattern(Head, FusedHead, lambda module: result)
    model = nn.ModuleList([mlp(), Head(), mlp()])
    old = classes(model)
    with pytest.raises(TypeError, match=r"check returned .*, but expected None or a text"):
        fd.fuse(model)
    assert classes(model) == old


def test_check_that_raises(own_patterns):
    def check(module):
        raise ZeroDivisionError

    fd.register_pattern(Head, FusedHead, check)
    model = nn.ModuleList([mlp(), Head()])
    with pytest.raises(ZeroDivisionError):
        fd.fuse(model)
    assert classes(model[0]) == classes(mlp())


def test_class_that_python_rejects(own_patterns):
    """Then no module is fused."""

    class Slotted(Head):
        __slots__ = ("extra",)

    fd.register_pattern(Head, Slotted)
    model = nn.ModuleList([mlp(), Head(), mlp()])
    old = classes(model)
    with pytest.raises(TypeError, match="layout differs"):
        fd.fuse(model)
    assert classes(model) == old


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((3, FusedHead), "cls is 3, but expected a subclass of nn.Module"),
        ((Head(), FusedHead), r"cls is Head\("),
        ((Head, nn.Linear), "fused_cls is .*Linear'>, but expected a subclass of Head"),
        ((Head, Head), "fused_cls is .*Head'>, but expected a subclass of Head"),
        ((Head, FusedHead()), r"fused_cls is FusedHead\("),
        ((Head, FusedHead, "check"), "check is 'check', but expected a function or None"),
    ],
)
def test_errors_of_register_pattern(own_patterns, arguments, text):
    before = list(registry._PATTERNS)
    with pytest.raises(TypeError, match=f"register_pattern: {text}"):
        fd.register_pattern(*arguments)
    assert before == registry._PATTERNS


def test_every_library_has_a_file_or_folder():
    folder = "fused_dropout.fusion.patterns"
    assert {
        "transformers": f"{folder}.hugging_face",
        "timm": f"{folder}.timm",
        "torchvision": f"{folder}.torchvision",
    } == registry._LIBRARIES


def test_all_files_of_torch_nn_are_imported():
    folder = Path(patterns.__file__).parent / "torch_nn"
    for file in folder.glob("*.py"):
        name = "" if file.stem == "__init__" else f".{file.stem}"
        assert f"{patterns.__name__}.torch_nn{name}" in sys.modules


def test_new_files_of_a_folder_are_imported(tmp_path, monkeypatch):
    """The patterns of a file are added without a change of another file."""
    folder = tmp_path / "folder_of_patterns"
    folder.mkdir()
    for name in ("__init__", "one", "other"):
        (folder / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    registry.import_patterns("folder_of_patterns")
    for name in ("", ".one", ".other"):
        assert sys.modules.pop(f"folder_of_patterns{name}")


def test_library_version_that_the_patterns_do_not_fit(monkeypatch):
    """One warning is given, and all other patterns work."""
    package = types.ModuleType("some_package")
    package.__version__ = "0.1"
    monkeypatch.setitem(sys.modules, "some_package", package)
    monkeypatch.setitem(registry._LIBRARIES, "some_package", "fused_dropout.fusion.is_missing")
    monkeypatch.setattr(registry, "_LOADED", set(registry._LOADED))
    with pytest.warns(UserWarning, match=r"some_package 0\.1 .*is_missing"):
        assert fd.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).fused
    assert fd.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).fused
