"""Fused timm models in training code: autocast, checkpointing, averages, compiling."""

import copy

import pytest
import torch
from timm.layers import (
    DropPath,
)
from timm.models.vision_transformer import Block
from timm.utils import ModelEmaV3
from torch import nn

import fused_dropout as fd
from tests.fusion.packages.timm_models import vit
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, run, with_inputs


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
def test_dtypes_of_a_low_precision_residual(init_values):
    """Under autocast, layer scale makes the residual float32, whatever the dtype of the input."""
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


@pytest.mark.parametrize("training", [True, False])
def test_fx_graph(training):
    """It is that of the unfused model."""
    model = vit(init_values=0.3).train(training)
    fused = copy.deepcopy(model)
    fd.fuse(fused)
    graphs = [torch.fx.symbolic_trace(one) for one in (model, fused)]
    names = [[(one.op, one.name, one.target) for one in one.graph.nodes] for one in graphs]
    assert names[0] == names[1]
    x = torch.randn(2, 3, 16, 16)
    graphs[1](x).sum().backward()
    if not training:
        torch.testing.assert_close(*(one(x) for one in graphs))
