"""``fuse``, ``unfuse``, ``fused`` and the report."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import Net, classes, encoder_layer, fused_copy, mlp, seeded
from tests.module_helpers import drawing_nothing


def test_fuse_and_unfuse_change_classes_and_nothing_else():
    model = Net()
    old, attributes = classes(model), [dict(module.__dict__) for module in model.modules()]
    report = fd.fuse(model)
    assert len(report.fused) == 13 and not report.skipped
    assert sum(a is not b for a, b in zip(old, classes(model), strict=True)) == 13
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
    assert {site.text for site in again.fused} == {"is already fused"}
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
    assert dry.dry_run and "13 modules would be fused, 0 skipped" in str(dry)
    assert dry.sites == fd.fuse(model).sites


def test_groups_choose_patterns():
    for patterns, expected in (
        ("dropout", {"Dropout"}),
        (["sequential"], {"Sequential"}),
        (("torch.nn", "dropout"), {"TransformerEncoderLayer", "Dropout"}),
        ([], set()),
    ):
        report = fd.fuse(Net(), patterns)
        assert {site.module for site in report.fused} == expected
    # These groups are valid although the libraries are not imported.
    assert not fd.fuse(Net(), ["own", "timm", "transformers", "torchvision"]).sites


def test_the_model_itself_is_examined():
    layer = encoder_layer()
    (site, *_) = fd.fuse(layer).fused
    assert (site.name, site.module, site.group) == ("", "TransformerEncoderLayer", "torch.nn")


@pytest.mark.parametrize("function", [fd.fuse, fd.unfuse, lambda model: fd.fused(model).__enter__])
@pytest.mark.parametrize("model", [None, [mlp()], nn.Linear, torch.ones(2)], ids=repr)
def test_models_that_are_no_modules(function, model):
    with pytest.raises(TypeError, match=r"fused?: model is of type .*, but expected a torch.nn.M"):
        manager = function(model)
        manager()


@pytest.mark.parametrize("patterns", ["sequental", ["dropout", "auto"], [nn.Linear], [3]], ids=repr)
def test_unknown_groups(patterns):
    model = mlp()
    with pytest.raises(
        ValueError, match=r"fuse: patterns contains .*, but expected 'auto' or names from"
    ):
        fd.fuse(model, patterns)
    assert classes(model) == classes(mlp())


def test_the_error_lists_the_groups():
    """The group of torch.nn's transformer layers is "torch.nn", not "transformer"."""
    with pytest.raises(ValueError, match="patterns contains 'transformer'") as error:
        fd.fuse(mlp(), "transformer")
    for group in (
        "own",
        "dropout",
        "sequential",
        "torch.nn",
        "transformers",
        "timm",
        "torchvision",
    ):
        assert repr(group) in str(error.value)


@pytest.mark.parametrize("patterns", [None, 3, True])
def test_patterns_that_are_no_list(patterns):
    with pytest.raises(TypeError, match=f"fuse: patterns is {patterns}, but expected 'auto' or"):
        fd.fuse(mlp(), patterns)


def hooked():
    model = nn.ModuleDict({"one": mlp(), "two": encoder_layer()})
    model.two.dropout1.register_forward_hook(lambda *_: None)
    return model


def test_strict_raises_with_the_report_and_changes_nothing():
    model = hooked()
    old = classes(model)
    with pytest.raises(
        fd.FusionError, match="two: TransformerEncoderLayer: dropout1 has hooks"
    ) as e:
        fd.fuse(model, strict=True)
    assert classes(model) == old
    assert [site.name for site in e.value.report.skipped] == ["two"]
    assert "modules would be fused, 1 skipped" in str(e.value)
    with pytest.raises(fd.FusionError), fd.fused(model, strict=True):
        raise AssertionError("unreachable")
    assert classes(model) == old
    with pytest.raises(fd.FusionError):
        fd.fuse(model, dry_run=True, strict=True)


@pytest.mark.parametrize("round_trip", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_and_pickles_of_the_error(round_trip):
    with pytest.raises(fd.FusionError) as caught:
        fd.fuse(hooked(), strict=True)
    again = round_trip(caught.value)
    assert type(again) is fd.FusionError and str(again) == str(caught.value)
    assert again.report == caught.value.report


def test_strict_accepts_a_pooling_layer():
    """Between a convolution and dropout, it is not mistaken for an activation without a kernel."""
    report = fd.fuse(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten()), strict=True
    )
    assert [site.module for site in report.fused] == ["Dropout"]


def test_report_groups_the_layers_of_a_stack():
    model = nn.ModuleDict({"stack": nn.ModuleList(mlp() for _ in range(3)), "head": mlp(0.1)})
    model["stack"][1][0].register_forward_hook(lambda *_: None)
    lines = str(fd.fuse(model)).splitlines()
    assert lines == [
        "fuse: 8 modules fused, 0 skipped",
        "dropout of a training step: 4 in a kernel with neighbours, 0 alone without a stored mask, "
        "0 left with torch",
        "  fused: stack.* (2): Sequential: Linear, GELU, Dropout (0 to 2)",
        "  fused: stack.*.2 (3): Dropout: stores no mask",
        "  fused: stack.1: Sequential: GELU, Dropout (1 to 2); not fused: 0 has hooks",
        "  fused: head: Sequential: Linear, GELU, Dropout (0 to 2)",
        "  fused: head.2: Dropout: stores no mask",
    ]


def test_report_of_a_single_layer_and_of_nothing():
    assert str(fd.fuse(nn.Dropout())).splitlines()[2] == (
        "  fused: the model: Dropout: stores no mask"
    )
    assert str(fd.fuse(nn.Linear(2, 2))) == "fuse: no module matches a pattern"


def test_context():
    model = Net()
    old = classes(model)
    with fd.fused(model) as report:
        assert len(report.fused) == 13 and classes(model) != old
    assert classes(model) == old
    with pytest.raises(KeyError), fd.fused(model):
        raise KeyError
    assert classes(model) == old


def test_context_keeps_modules_fused_that_were_fused_before():
    model = nn.ModuleList([mlp(), mlp()])
    fd.fuse(model[0])
    old = classes(model)
    with fd.fused(model), fd.fused(model):
        assert classes(model[0]) == classes(model[1])
    assert classes(model) == old


def test_context_in_which_modules_are_replaced():
    model = nn.ModuleList([mlp(), mlp()])
    old = classes(model)
    with fd.fused(model):
        taken, model[1] = model[1], copy.deepcopy(model[0])
    assert classes(model) == old and classes(taken) == classes(mlp())


def test_fuse_draws_no_random_numbers_and_keeps_the_mode():
    model = Net().train()
    model.encoder[0].eval()
    modes = [module.training for module in model.modules()]
    with drawing_nothing():
        fd.fuse(model)
        fd.unfuse(model)
    assert [module.training for module in model.modules()] == modes


def test_results_after_unfuse_are_those_before_fuse():
    model, x = Net(), torch.randn(2, 5, 8)
    wanted = seeded(model, x)
    fd.fuse(model)
    assert not torch.equal(seeded(model, x), wanted)  # other masks
    assert torch.equal(seeded(fd.unfuse(model), x), wanted)
