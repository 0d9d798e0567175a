"""timm blocks and models: fused against unfused."""

import copy
import re

import pytest
import timm
import torch
from timm.layers import (
    GatedMlp,
    LayerNorm,
    RmsNorm,
    SwiGLU,
)
from timm.models.beit import Beit
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

import fused_dropout as fd
from tests.fusion.packages.timm_models import DROPS, TINY, assert_same_masks, tokens, vit
from tests.fusion.parity import assert_parity, set_p, with_inputs


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
        fused_classes=[options.get("block_fn", Block).__name__],
    )
    if options.get("norm_layer", LayerNorm) is not nn.LayerNorm:
        return
    assert fd.fuse(copy.deepcopy(model), strict=True).fused
    set_p(fused, 0.0)


def test_only_stochastic_depth_is_active():
    """If dropout has p = 0, the kernel draws the mask of stochastic depth."""
    model = Block(16, 4, init_values=0.3, drop_path=0.1)
    call = tokens(8, 5, 16)
    fused = assert_parity(model, call, fused_classes=["Block"])
    for p in (0.0, 0.5):
        for module in (model, fused):
            set_p(module, 0.0)
            module.drop_path1.drop_prob = module.drop_path2.drop_prob = p
        assert_same_masks(model.train(), fused, call)


@pytest.mark.parametrize("mask", [None, "bool", "float", "causal"])
def test_attention_masks(mask):
    arguments = {}
    if mask == "causal":
        arguments["is_causal"] = True
    elif mask is not None:
        allowed = torch.ones(5, 5, dtype=torch.bool).tril(1)
        arguments["attn_mask"] = allowed if mask == "bool" else (~allowed).float() * -2.0
    block = Block(16, 4, proj_drop=0.1, attn_drop=0.1, drop_path=0.1)
    assert_parity(
        block, with_inputs(torch.randn(6, 5, 16), **arguments), fused_classes=["Attention"]
    )


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
    # The attention of these models calls torch's operator, which ExplicitMasks does not cover.
    masks = block not in ("Block", "EvaBlock")
    size = 32 if block == "ConvNeXtBlock" else 16
    # float64, because some gradients are zero but for rounding: a norm cancels the bias before it.
    assert_parity(
        make().double(),
        with_inputs(torch.randn(6, 3, size, size, dtype=torch.float64)),
        fused_classes=[block],
        masks=masks,
        in_memory_order=block == "ConvNeXtBlock",
    )


def test_children_of_a_block_that_cannot_be_bypassed_are_called():
    """Hooks see the same outputs as before, and the block computes the same function."""
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
        assert name in ("attn", "mlp") or f"not fused: {name} has hooks" in report
        assert_same_masks(unfused, fused, call)
        ours, theirs = seen
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_hooks_added_after_fuse():
    fused = Block(16, 4, proj_drop=0.1, drop_path=0.1)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    seen = []
    fused.mlp.fc2.register_forward_hook(lambda *_: seen.append(1))
    fused.attn.proj_drop.register_forward_hook(lambda *_: seen.append(2))
    assert_same_masks(unfused, fused, tokens())
    assert seen == [2, 1]


def test_frozen_children_keep_their_mode():
    """Children in evaluation mode in a block in training mode."""
    fused = Block(16, 4, proj_drop=0.1, attn_drop=0.1, drop_path=0.1)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    for name in ("attn", "mlp", "drop_path1", "mlp.drop2", "attn.attn_drop"):
        for model in (unfused, fused):
            model.train()
            model.get_submodule(name).eval()
        assert_same_masks(unfused, fused, tokens())


def test_registered_models_are_fused_completely():
    """Configurations of the library at full size, on the meta device: nothing is skipped."""
    for name in ("vit_tiny_patch16_224", "deit3_small_patch16_224", "mixer_s32_224",
                 "convnext_atto", "eva02_tiny_patch14_224", "gmixer_12_224"):  # fmt: skip
        with torch.device("meta"):
            model = timm.create_model(name, drop_path_rate=0.1)
        report = fd.fuse(model)
        assert report.fused and not report.skipped, f"{name}: {report}"
        assert not re.search("not fused", str(report)), f"{name}: {report}"
