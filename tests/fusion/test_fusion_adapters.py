"""Adapters in place of linear layers: residual, norm and dropout stay fused."""

import copy

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import decoder_layer, encoder_layer, mlp
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs

TOKENS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer, as libraries put it into a model."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def adapt(model, *names):
    torch.manual_seed(3)
    for name in names:
        parent, _, last = name.rpartition(".")
        parent = model.get_submodule(parent)
        setattr(parent, last, Adapter(getattr(parent, last)))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("make", [encoder_layer, decoder_layer])
def test_transformer_layers(make, norm_first, when):
    unfused = make(norm_first=norm_first)
    fused = copy.deepcopy(unfused)
    adapt(unfused, "linear1", "linear2")
    if when == "before":
        adapt(fused, "linear1", "linear2")
    fd.fuse(fused, strict=True)
    if when == "after":
        adapt(fused, "linear1", "linear2")
    inputs = (TOKENS, TOKENS) if make is decoder_layer else (TOKENS,)
    (site,) = (site for site in fd.report(fused, strict=True).fused if site.name == "")
    assert "not fused: linear1 is" in site.text and "linear2 is" in site.text
    drops = 3 if make is encoder_layer else 4
    kinds = [site.kind for site in fd.report(fused, *inputs).dropout_sites]
    assert kinds.count("neighbours") == drops and "torch" not in kinds
    call = with_inputs(*inputs)
    got = run(fused, call, seed=4)
    with ExplicitMasks():
        wanted = run(unfused, call, seed=4)
    assert_equal_runs(wanted, got, 2e-5)


def test_sequential():
    """The adapter is called, and activation and dropout are one kernel."""
    model = mlp()
    fd.fuse(model)
    adapt(model, "0")
    site, _ = fd.report(model, strict=True).fused
    assert site.text == "GELU, Dropout (1 to 2)"
    x = torch.randn(4, 8)
    assert [site.kind for site in fd.report(model, x).dropout_sites] == ["neighbours"]
