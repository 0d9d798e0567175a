"""timm layers: fused against unfused."""

import copy
from functools import partial

import pytest
import torch
from timm.layers import (
    ConvMlp,
    DropPath,
    GatedMlp,
    GlobalResponseNormMlp,
    GluMlp,
    LayerNorm2d,
    Mlp,
    SwiGLU,
    SwiGLUPacked,
    activations,
)
from timm.models.mlp_mixer import SpatialGatingUnit
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.utils import parametrizations

import fused_dropout as fd
from fused_dropout.fusion.activations import activation_of
from tests.fusion.packages.timm_models import assert_same_masks, by_name, tokens
from tests.fusion.parity import assert_parity, with_inputs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"act_layer": nn.ReLU, "bias": False, "norm_layer": nn.LayerNorm},
        {"act_layer": activations.QuickGELU, "out_features": 9, "drop": (0.0, 0.1)},
        {"act_layer": nn.PReLU},
    ],
)
@pytest.mark.parametrize("layer", [Mlp, GatedMlp, SwiGLU, GluMlp, SwiGLUPacked])
def test_feed_forward_layers(layer, options):
    name = getattr(layer, "func", layer).__name__
    options = {"drop": 0.1} | options
    if layer is SwiGLUPacked:
        options.pop("act_layer", None)
    assert_parity(layer(16, 24, **options), tokens(), fused_classes=[name])


def test_gated_mlp_with_its_spatial_gate():
    layer = GatedMlp(16, 24, gate_layer=partial(SpatialGatingUnit, seq_len=5), drop=0.1)
    assert_parity(layer, tokens(), fused_classes=["GatedMlp"])


def test_swiglu_with_only_one_bias():
    """The two linear layers cannot be concatenated."""
    layer = SwiGLU(16, 24, drop=0.1)
    layer.fc1_x.bias = None
    assert_parity(layer, tokens(), fused_classes=["SwiGLU"])


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Mlp(6, 10, drop=0.1, use_conv=True),
        lambda: GluMlp(6, 10, drop=0.1, use_conv=True, act_layer=nn.GELU),
        lambda: ConvMlp(6, 10, drop=0.1),
        lambda: ConvMlp(6, 10, drop=0.1, norm_layer=LayerNorm2d),
        lambda: GlobalResponseNormMlp(6, 10, drop=0.1, use_conv=True),
    ],
)
def test_images(make, channels_last):
    x = torch.randn(3, 6, 4, 5)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    layer = make()
    fused = assert_parity(
        layer, with_inputs(x), fused_classes=[type(layer).__name__], in_memory_order=True
    )
    same_format = fused(x).is_contiguous(memory_format=torch.channels_last)
    assert same_format == layer(x).is_contiguous(memory_format=torch.channels_last)


def test_global_response_norm_mlp_of_the_last_dimension():
    layer = GlobalResponseNormMlp(6, 10, drop=0.1)
    assert_parity(layer, tokens(2, 4, 5, 6), fused_classes=["GlobalResponseNormMlp"])


@pytest.mark.parametrize("scale_by_keep", [False, True])
@pytest.mark.parametrize("sizes", [(40,), (40, 3), (40, 3, 2, 2)])
def test_drop_path(sizes, scale_by_keep):
    fused = assert_parity(
        nn.Sequential(
            DropPath(0.1, scale_by_keep),
            nn.Dropout(0.1),
            DropPath(0.1, scale_by_keep),
            nn.Linear(sizes[-1], 2),
        ),
        tokens(*sizes),
        fused_classes=["DropPath"],
    )
    y = fused[0](torch.ones(1000, 7))
    assert torch.equal(y, y[:, :1].expand(-1, 7))
    q = round(0.9 * 65536) / 65536
    kept = torch.tensor(1 / q if scale_by_keep else 1.0)
    assert set(y.unique().tolist()) == {0.0, kept.item()}


def test_a_class_derived_from_drop_path():
    class Derived(DropPath):
        pass

    model = nn.Sequential(Derived(0.5), nn.Linear(3, 2))
    model[0].__class__.__module__ = DropPath.__module__
    report = fd.fuse(model)
    assert by_name(report)["0"].fused
    y = model[0](torch.ones(64, 3))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert model[0].independent_rows

    block = Block(16, 4, drop_path=0.5, proj_drop=0.1)
    block.drop_path2 = Derived(0.5)
    unfused = copy.deepcopy(block)
    assert "drop_path2 is" in by_name(fd.fuse(block))[""].text
    assert_same_masks(unfused, block, tokens())


@pytest.mark.parametrize("name", ["Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "GELU",
                                  "GELUTanh", "QuickGELU"])  # fmt: skip
def test_activations(name):
    layer = getattr(activations, name)()
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    fd.fuse(Mlp(2))
    activation = activation_of(layer)
    ours = fd.functional.bias_act_dropout(x, None, 0.0, activation.activation)
    torch.testing.assert_close(ours, layer(x), rtol=1e-12, atol=1e-12)


def reason_skipped(model, name):
    (text,) = (site.text for site in fd.fuse(model).skipped if site.name == name)
    return text


def test_reasons():
    mlp = Mlp(4, drop=0.1)
    mlp.fc1.register_forward_hook(lambda *_: None)
    parametrizations.weight_norm(mlp.fc2)
    (text,) = (site.text for site in fd.fuse(mlp).fused if site.name == "")
    assert text.endswith("; not fused: fc1 has hooks; fc2 has a parametrisation of weight")
    mlp = Mlp(4, drop=0.1)
    mlp.drop2 = type("Other", (nn.Dropout,), {})(0.1)
    assert "a subclass of Dropout" in reason_skipped(mlp, "")

    class Changed(Block):
        def forward(self, x):
            return super().forward(x) * 2

    assert (
        reason_skipped(Changed(16, 4), "")
        == f"{Changed.__qualname__}.forward has no known fingerprint"
    )
    block = Block(16, 4, attn_drop=0.1)
    block.attn.fused_attn = False
    assert "fused_attn is False" in reason_skipped(block, "attn")

    report = fd.fuse(Mlp(4, act_layer=nn.PReLU, drop=0.1))
    assert "act is PReLU, an activation without a kernel" in str(report)
