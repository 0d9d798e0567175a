"""timm's models: fused against unfused."""

import copy
import re
from functools import partial

import pytest
import timm
import torch
from timm.layers import (
    ConvMlp,
    DropPath,
    GatedMlp,
    GlobalResponseNormMlp,
    GluMlp,
    LayerNorm,
    LayerNorm2d,
    Mlp,
    RmsNorm,
    SwiGLU,
    SwiGLUPacked,
    activations,
)
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock, SpatialGatingUnit
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.utils import parametrizations

import fused_dropout as fd
from fused_dropout.fusion._activations import activation_of
from tests.fusion.parity import (
    ExplicitMasks,
    assert_equal_runs,
    assert_parity,
    run,
    set_p,
    with_inputs,
)

TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "num_heads": 4, "num_classes": 3}
DROPS = {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.1}


def vit(**options):
    return VisionTransformer(**{**TINY, **DROPS, "depth": 2, **options})


def tokens(*sizes):
    return with_inputs(torch.randn(*(sizes or (6, 5, 16))))


def places(report):
    return {place.name: place for place in report.places}


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
    assert_parity(layer(16, 24, **options), tokens(), places=[name])


def test_gated_mlp_with_its_spatial_gate():
    layer = GatedMlp(16, 24, gate_layer=partial(SpatialGatingUnit, seq_len=5), drop=0.1)
    assert_parity(layer, tokens(), places=["GatedMlp"])


def test_products_side_by_side_need_both_biases():
    layer = SwiGLU(16, 24, drop=0.1)
    layer.fc1_x.bias = None
    assert_parity(layer, tokens(), places=["SwiGLU"])


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
        layer, with_inputs(x), places=[type(layer).__name__], in_memory_order=True
    )
    same_format = fused(x).is_contiguous(memory_format=torch.channels_last)
    assert same_format == layer(x).is_contiguous(memory_format=torch.channels_last)


def test_global_response_norm_mlp_of_the_last_dimension():
    layer = GlobalResponseNormMlp(6, 10, drop=0.1)
    assert_parity(layer, tokens(2, 4, 5, 6), places=["GlobalResponseNormMlp"])


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
        places=["DropPath"],
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
    assert places(report)["0"].fused
    y = model[0](torch.ones(64, 3))
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert model[0].independent_rows

    block = Block(16, 4, drop_path=0.5, proj_drop=0.1)
    block.drop_path2 = Derived(0.5)
    unfused = copy.deepcopy(block)
    assert "drop_path2 is" in places(fd.fuse(block))[""].text
    assert_same_masks(unfused, block, tokens())


@pytest.mark.parametrize("init_values", [None, 0.3])
def test_dtypes_in_pure_bfloat16(init_values):
    block = Block(16, 4, proj_drop=0.1, drop_path=0.1, init_values=init_values).bfloat16()
    x = torch.randn(6, 5, 16, dtype=torch.bfloat16)
    assert block(x).dtype == torch.bfloat16
    fd.fuse(block)
    y = block(x)
    assert y.dtype == torch.bfloat16
    y.sum().backward()


@pytest.mark.parametrize("init_values", [None, 0.3])
def test_dtypes_of_a_low_precision_stream(init_values):
    """Under autocast a layer scale makes a stream of single precision, whatever came in."""
    block = Block(16, 4, proj_drop=0.1, drop_path=0.1, init_values=init_values)
    block.ls2 = nn.Identity()
    x = torch.randn(6, 5, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = block(x).dtype
        fd.fuse(block)
        assert block(x).dtype == expected
    assert expected == (torch.bfloat16 if init_values is None else torch.float32)


def test_monte_carlo_mode_finds_stochastic_depth():
    model = vit().eval()
    fd.fuse(model)
    x = torch.randn(32, 3, 16, 16)
    expected = model(x)
    with fd.mc_mode(model) as layers:
        assert {"blocks.1.drop_path1", "blocks.0.attn.attn_drop", "head_drop"} <= layers.keys()
        assert not torch.equal(model(x), model(x))
    for only in (DropPath, "blocks.0.attn.attn_drop", "blocks.1.attn.proj_drop", "blocks.1.mlp"):
        with fd.mc_mode(model, only=only):
            assert not torch.equal(model(x), model(x)), only
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"init_values": 0.3},
        {"proj_drop_rate": 0.0, "attn_drop_rate": 0.0},
        {"drop_path_rate": 0.0, "init_values": 0.3, "norm_layer": nn.LayerNorm},
        {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "norm_layer": RmsNorm},
        {"mlp_layer": SwiGLU, "act_layer": nn.SiLU, "qkv_bias": False, "proj_bias": False},
        {"attn_layer": "diff", "num_heads": 2},
        {"block_fn": ResPostBlock, "init_values": 0.3},
    ],
)
def test_vision_transformers(options):
    model = vit(**options)
    fused = assert_parity(
        model,
        with_inputs(torch.randn(6, 3, 16, 16)),
        places=[options.get("block_fn", Block).__name__],
        # Differential attention drops by torch's own operator.
        masks=options.get("attn_layer") != "diff",
    )
    if options.get("norm_layer", LayerNorm) is not nn.LayerNorm:
        return
    assert fd.fuse(copy.deepcopy(model), strict=True).fused
    set_p(fused, 0.0)


def test_only_stochastic_depth_is_left():
    """Probabilities of zero next to stochastic depth: its mask goes into the kernel itself."""
    model = Block(16, 4, init_values=0.3, drop_path=0.1)
    call = tokens(8, 5, 16)
    fused = assert_parity(model, call, places=["Block"])
    for p in (0.0, 0.5):
        for module in (model, fused):
            set_p(module, 0.0)
            module.drop_path1.drop_prob = module.drop_path2.drop_prob = p
        assert_same_masks(model.train(), fused, call)


def assert_same_masks(unfused, fused, call, tolerance=2e-5):
    got = run(fused, call, 5)
    with ExplicitMasks():
        assert_equal_runs(run(unfused, call, 5), got, tolerance)


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
def test_attention_masks(mask):
    arguments = {}
    if mask == "causal":
        arguments["is_causal"] = True
    elif mask is not None:
        allowed = torch.ones(5, 5, dtype=torch.bool).tril(1)
        arguments["attn_mask"] = allowed if mask == "bool" else (~allowed).float() * -2.0
    block = Block(16, 4, proj_drop=0.1, attn_drop=0.1, drop_path=0.1)
    assert_parity(block, with_inputs(torch.randn(6, 5, 16), **arguments), places=["Attention"])


def mixer(**options):
    options = {"img_size": 16, "patch_size": 8, "num_blocks": 2, "embed_dim": 16} | options
    return MlpMixer(num_classes=0, proj_drop_rate=0.1, drop_path_rate=0.1, **options)


def convnext(**options):
    return ConvNeXt(
        num_classes=3, depths=(1, 1, 1, 2), dims=(8, 8, 8, 16), drop_path_rate=0.1, **options
    )


@pytest.mark.parametrize(
    ("make", "block"),
    [
        (lambda: Beit(**TINY, **DROPS, depth=2, init_values=0.3), "Block"),
        (lambda: Eva(**TINY, **DROPS, depth=2, init_values=0.3, swiglu_mlp=True), "EvaBlock"),
        (lambda: mixer(), "MixerBlock"),
        (
            lambda: mixer(
                block_layer=SpatialGatingBlock,
                mlp_ratio=2,
                mlp_layer=GatedMlp,
            ),
            "SpatialGatingBlock",
        ),
        (lambda: convnext(ls_init_value=0.3), "ConvNeXtBlock"),
        (lambda: convnext(ls_init_value=None, conv_mlp=True), "ConvNeXtBlock"),
    ],
)
def test_other_models(make, block):
    # Attention of these drops by torch's own operator.
    masks = block not in ("Block", "EvaBlock")
    size = 32 if block == "ConvNeXtBlock" else 16
    # In double precision, as some gradients are zero but for rounding: norms take biases away.
    assert_parity(
        make().double(),
        with_inputs(torch.randn(6, 3, size, size, dtype=torch.float64)),
        places=[block],
        masks=masks,
        in_memory_order=block == "ConvNeXtBlock",
    )


@pytest.mark.parametrize("name", ["Swish", "Mish", "Sigmoid", "Tanh", "HardSwish", "GELU",
                                  "GELUTanh", "QuickGELU"])  # fmt: skip
def test_activations(name):
    layer = getattr(activations, name)()
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    fd.fuse(Mlp(2))
    activation = activation_of(layer)
    ours = fd.functional.bias_act_dropout(x, None, 0.0, activation.activation)
    torch.testing.assert_close(ours, layer(x), rtol=1e-12, atol=1e-12)


def left_alone(model, name):
    place = places(fd.fuse(model))[name]
    assert not place.fused
    return place.text


def test_reasons():
    mlp = Mlp(4, drop=0.1)
    mlp.fc1.register_forward_hook(lambda *_: None)
    assert left_alone(mlp, "") == "fc1 has hooks"
    mlp = Mlp(4, drop=0.1)
    parametrizations.weight_norm(mlp.fc2)
    assert left_alone(mlp, "") == "fc2 has a parametrisation of weight"
    mlp = Mlp(4, drop=0.1)
    mlp.drop2 = type("Other", (nn.Dropout,), {})(0.1)
    assert "a subclass of Dropout" in left_alone(mlp, "")

    class Changed(Block):
        def forward(self, x):
            return super().forward(x) * 2

    assert (
        left_alone(Changed(16, 4), "") == f"{Changed.__qualname__}.forward is not one that is known"
    )
    block = Block(16, 4, attn_drop=0.1)
    block.attn.fused_attn = False
    assert "fused_attn is False" in left_alone(block, "attn")

    report = fd.fuse(Mlp(4, act_layer=nn.PReLU, drop=0.1))
    assert "act is PReLU, an activation that is not known and applied as it is" in str(report)


def test_unusual_children_of_a_block_are_called():
    """Hooks see what they saw before, and the rest is still the same function."""
    block = Block(16, 4, init_values=0.3, proj_drop=0.1, drop_path=0.1)
    call = tokens()
    names = ("ls1", "ls2", "drop_path1", "drop_path2", "norm2", "attn", "mlp")
    for name in names:
        unfused, fused = copy.deepcopy(block), copy.deepcopy(block)
        seen = []
        for model in (unfused, fused):
            getattr(model, name).register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.append(output.detach())
            )
        report = str(fd.fuse(fused))
        assert name in ("attn", "mlp") or f"{name} has hooks and is called as it is" in report
        assert_same_masks(unfused, fused, call)
        ours, theirs = seen
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hooks_that_come_later():
    fused = Block(16, 4, proj_drop=0.1, drop_path=0.1)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    seen = []
    fused.mlp.fc2.register_forward_hook(lambda *_: seen.append(1))
    fused.attn.proj_drop.register_forward_hook(lambda *_: seen.append(2))
    assert_same_masks(unfused, fused, tokens())
    assert seen == [2, 1]


def test_frozen_parts_keep_their_mode():
    """Children whose mode differs from the block's."""
    fused = Block(16, 4, proj_drop=0.1, attn_drop=0.1, drop_path=0.1)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    for name in ("attn", "mlp", "drop_path1", "mlp.drop2", "attn.attn_drop"):
        for model in (unfused, fused):
            model.train()
            model.get_submodule(name).eval()
        assert_same_masks(unfused, fused, tokens())


def test_gradient_checkpointing():
    model = vit(init_values=0.3)
    fd.fuse(model)
    call = with_inputs(torch.randn(4, 3, 16, 16))
    plain = run(model, call)
    model.set_grad_checkpointing()
    assert_equal_runs(plain, run(model, call), 1e-6)


def test_ema():
    model = vit()
    fd.fuse(model)
    ema = ModelEmaV3(model, decay=0.5)
    assert [type(m) for m in ema.module.modules()] == [type(m) for m in model.modules()]
    before = ema.module.blocks[0].mlp.fc1.weight.clone()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight += 1
    ema.update(model)
    torch.testing.assert_close(ema.module.blocks[0].mlp.fc1.weight, before + 0.5)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(ema.module(x), fd.unfuse(copy.deepcopy(ema.module))(x))


@pytest.mark.parametrize("init_values", [None, 0.3])
def test_autocast(init_values):
    fused = vit(init_values=init_values)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    x = torch.randn(6, 3, 16, 16)
    call = with_inputs(x)

    def low(model):
        with torch.autocast("cpu", torch.bfloat16):
            outputs, inputs = call(model)
        return [output.float() for output in outputs], inputs

    got = run(fused, low, 5)
    with ExplicitMasks():
        theirs = run(unfused, low, 5)
        exact = run(unfused, call, 5)
    error = (got[0][0] - exact[0][0]).abs().max()
    assert error <= 2 * (theirs[0][0] - exact[0][0]).abs().max()
    for name, gradient in exact[1].items():
        error, allowed = ((g[1][name] - gradient).norm() for g in (got, theirs))
        assert error <= 2 * allowed + 1e-3 * gradient.norm(), name


@pytest.mark.parametrize("init_values", [None, 0.3])
def test_compiled_block(init_values):
    block = Block(
        16, 4, init_values=init_values, proj_drop=0.1, attn_drop=0.1, drop_path=0.1, qkv_bias=True
    )
    fd.fuse(block)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 5, 16)
    torch.manual_seed(0)
    expected = block(x)
    torch.manual_seed(0)
    got = compiled(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(compiled(x), got)
    got.sum().backward()


def test_registered_models_report_no_gaps():
    """Real configurations at full depth, on the meta device: nothing that matches is left alone."""
    for name in ("vit_tiny_patch16_224", "deit3_small_patch16_224", "mixer_s32_224",
                 "convnext_atto", "eva02_tiny_patch14_224", "gmixer_12_224"):  # fmt: skip
        with torch.device("meta"):
            model = timm.create_model(name, drop_path_rate=0.1)
        report = fd.fuse(model)
        assert report.fused and not report.left, f"{name}: {report}"
        assert not re.search("is called as it is", str(report)), f"{name}: {report}"
