"""fuse, unfuse, fused, register_pattern and the report."""

import copy
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.fusion import _patterns
from tests.fusion.fusing import Net, classes, encoder_layer, fused_copy, mlp, seeded, uses_kernels
from tests.module_helpers import drawing_nothing

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def own_patterns():
    """What a test registers is gone afterwards."""
    before = list(_patterns._PATTERNS)
    yield
    _patterns._PATTERNS[:] = before


def test_fuse_and_unfuse_change_classes_and_nothing_else():
    model = Net()
    old, attributes = classes(model), [dict(module.__dict__) for module in model.modules()]
    report = fd.fuse(model)
    assert len(report.fused) == 11 and not report.left
    assert sum(a is not b for a, b in zip(old, classes(model), strict=True)) == 11
    assert fd.unfuse(model) is model
    assert classes(model) == old
    for module, before in zip(model.modules(), attributes, strict=True):
        assert module.__dict__.keys() == before.keys()
        assert all(module.__dict__[name] is value for name, value in before.items())


def test_fusing_twice_and_unfusing_twice():
    model = Net()
    old = classes(model)
    fd.unfuse(model)
    assert classes(model) == old
    fd.fuse(model)
    fused = classes(model)
    again = fd.fuse(model, strict=True)
    assert classes(model) == fused
    assert {place.text for place in again.fused} == {"is fused already"}
    fd.unfuse(fd.unfuse(model))
    assert classes(model) == old


def test_two_models_get_the_same_classes():
    one, other = fused_copy(mlp()), fused_copy(mlp())
    assert classes(one) == classes(other)


def test_dry_run_says_what_would_happen_and_changes_nothing():
    model = Net()
    old = classes(model)
    dry = fd.fuse(model, dry_run=True)
    assert classes(model) == old
    assert dry.dry_run and "11 modules would be fused, 0 left alone" in str(dry)
    assert dry.places == fd.fuse(model).places


def test_groups_choose_patterns():
    for patterns, expected in (
        ("dropout", {"Dropout"}),
        (["sequential"], {"Sequential"}),
        (("transformer", "dropout"), {"TransformerEncoderLayer", "Dropout"}),
        ([], set()),
    ):
        report = fd.fuse(Net(), patterns)
        assert {place.module for place in report.fused} == expected
    # Known before the package is there.
    assert not fd.fuse(Net(), ["own", "timm", "transformers", "torchvision"]).places


def test_the_model_itself_is_looked_at():
    layer = encoder_layer()
    (place, *_) = fd.fuse(layer).fused
    assert (place.name, place.module, place.group) == ("", "TransformerEncoderLayer", "transformer")


@pytest.mark.parametrize("function", [fd.fuse, fd.unfuse, lambda model: fd.fused(model).__enter__])
@pytest.mark.parametrize("model", [None, [mlp()], nn.Linear, torch.ones(2)], ids=repr)
def test_what_is_no_module(function, model):
    with pytest.raises(TypeError, match=r"fused?: model is of type .*, but expected a torch.nn.M"):
        manager = function(model)
        manager()


@pytest.mark.parametrize("patterns", ["sequental", ["dropout", "auto"], [nn.Linear], [3]], ids=repr)
def test_unknown_groups(patterns):
    model = mlp()
    with pytest.raises(ValueError, match=r"fuse: patterns has .*, but expected 'auto' or some of"):
        fd.fuse(model, patterns)
    assert classes(model) == classes(mlp())


@pytest.mark.parametrize("patterns", [None, 3, True])
def test_patterns_that_are_no_list(patterns):
    with pytest.raises(TypeError, match=f"fuse: patterns is {patterns}, but expected 'auto' or"):
        fd.fuse(mlp(), patterns)


def hooked():
    model = nn.ModuleDict({"one": mlp(), "two": encoder_layer()})
    model.two.linear1.register_forward_hook(lambda *_: None)
    return model


def test_strict_raises_with_the_report_and_changes_nothing():
    model = hooked()
    old = classes(model)
    with pytest.raises(
        fd.FusionError, match="two: TransformerEncoderLayer: linear1 has hooks"
    ) as e:
        fd.fuse(model, strict=True)
    assert classes(model) == old
    assert [place.name for place in e.value.report.left] == ["two"]
    with pytest.raises(fd.FusionError), fd.fused(model, strict=True):
        raise AssertionError("unreachable")
    assert classes(model) == old
    with pytest.raises(fd.FusionError):
        fd.fuse(model, dry_run=True, strict=True)


@pytest.mark.parametrize("round_trip", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_the_error_travels(round_trip):
    with pytest.raises(fd.FusionError) as caught:
        fd.fuse(hooked(), strict=True)
    again = round_trip(caught.value)
    assert type(again) is fd.FusionError and str(again) == str(caught.value)
    assert again.report == caught.value.report


def test_strict_lets_a_pooling_layer_pass():
    """It is no activation that was missed."""
    report = fd.fuse(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten()), strict=True
    )
    assert [place.module for place in report.fused] == ["Dropout"]


def test_report_groups_the_layers_of_a_stack():
    model = nn.ModuleDict({"stack": nn.ModuleList(mlp() for _ in range(3)), "head": mlp(0.1)})
    model["stack"][1][0].register_forward_hook(lambda *_: None)
    lines = str(fd.fuse(model)).splitlines()
    assert lines == [
        "fuse: 8 modules fused, 0 left alone",
        "  fused: stack.* (2): Sequential: Linear, GELU, Dropout (0 to 2)",
        "  fused: stack.*.2 (3): Dropout: stores no mask",
        "  fused: stack.1: Sequential: GELU, Dropout (1 to 2); but 0 has hooks",
        "  fused: head: Sequential: Linear, GELU, Dropout (0 to 2)",
        "  fused: head.2: Dropout: stores no mask",
    ]


def test_report_of_a_single_layer_and_of_nothing():
    assert str(fd.fuse(nn.Dropout())).splitlines()[1] == (
        "  fused: the model: Dropout: stores no mask"
    )
    assert str(fd.fuse(nn.Linear(2, 2))) == "fuse: no module matched a pattern"


def test_context():
    model = Net()
    old = classes(model)
    with fd.fused(model) as report:
        assert len(report.fused) == 11 and classes(model) != old
    assert classes(model) == old
    with pytest.raises(KeyError), fd.fused(model):
        raise KeyError
    assert classes(model) == old


def test_context_leaves_what_was_fused_before():
    model = nn.ModuleList([mlp(), mlp()])
    fd.fuse(model[0])
    old = classes(model)
    with fd.fused(model), fd.fused(model):
        assert classes(model[0]) == classes(model[1])
    assert classes(model) == old


def test_context_with_modules_exchanged_inside():
    model = nn.ModuleList([mlp(), mlp()])
    old = classes(model)
    with fd.fused(model):
        taken, model[1] = model[1], copy.deepcopy(model[0])
    assert classes(model) == old and classes(taken) == classes(mlp())


# Patterns of one's own


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
    assert fd.fuse(model, "own").fused[0].text == "is fused already"
    assert type(pickle.loads(pickle.dumps(model)).head) is FusedHead
    assert type(fd.unfuse(model).head) is Head


def test_own_pattern_wins_over_the_others_and_over_earlier_ones(own_patterns):
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


def test_own_pattern_leaves_subclasses_alone(own_patterns):
    class Other(Head):
        pass

    fd.register_pattern(Head, FusedHead)
    assert not fd.fuse(Other(), "own").places


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
    assert [(p.fused, p.text) for p in report.places] == [
        (True, "by FusedHead"),
        (False, "p is large"),
    ]
    assert [type(one) for one in model] == [FusedHead, Head]
    with pytest.raises(fd.FusionError, match="1: Head: p is large"):
        fd.fuse(model, "own", strict=True)


@pytest.mark.parametrize("nonsense", [True, False, 3, ["text"], b"text"], ids=repr)
def test_check_that_returns_nonsense(own_patterns, nonsense):
    fd.register_pattern(Head, FusedHead, lambda module: nonsense)
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


def test_class_that_python_refuses(own_patterns):
    """Everything is fused or nothing."""

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
def test_bad_patterns(own_patterns, arguments, text):
    before = list(_patterns._PATTERNS)
    with pytest.raises(TypeError, match=f"register_pattern: {text}"):
        fd.register_pattern(*arguments)
    assert before == _patterns._PATTERNS


def test_fusing_draws_nothing_and_keeps_the_mode():
    model = Net().train()
    model.encoder[0].eval()
    modes = [module.training for module in model.modules()]
    with drawing_nothing():
        fd.fuse(model)
        fd.unfuse(model)
    assert [module.training for module in model.modules()] == modes


def test_unfused_again_it_computes_as_before():
    model, x = Net(), torch.randn(2, 5, 8)
    wanted = seeded(model, x)
    fd.fuse(model)
    assert not torch.equal(seeded(model, x), wanted)  # other masks
    assert torch.equal(seeded(fd.unfuse(model), x), wanted)


def test_a_version_without_what_its_patterns_need(monkeypatch):
    """It is said once, and everything else is fused."""
    package = types.ModuleType("some_package")
    package.__version__ = "0.1"
    monkeypatch.setitem(sys.modules, "some_package", package)
    monkeypatch.setitem(_patterns._OF_PACKAGES, "some_package", "fused_dropout.fusion.is_missing")
    monkeypatch.setattr(_patterns, "_LOADED", set(_patterns._LOADED))
    with pytest.warns(UserWarning, match=r"some_package 0\.1 .*is_missing"):
        assert fd.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).fused
    assert fd.fuse(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).fused
