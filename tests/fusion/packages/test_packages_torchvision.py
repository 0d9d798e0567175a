"""torchvision models: fused against unfused."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import AlexNet, ConvNeXt, EfficientNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlock, CNBlockConfig
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig, MBConv, MBConvConfig
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import EncoderBlock, MLPBlock
from torchvision.ops import MLP, StochasticDepth

import fused_dropout as fd
from tests.fusion.parity import ExplicitMasks, assert_equal_runs, assert_parity, run, with_inputs


def by_name(report):
    return {site.name: site for site in report.sites}


@pytest.mark.parametrize("norm_layer", [None, nn.LayerNorm])
def test_mlp(norm_layer):
    model = MLP(8, [12, 6], norm_layer, activation_layer=nn.GELU, dropout=0.1)
    call = with_inputs(torch.randn(7, 8))
    assert_parity(model, call, fused_classes=["MLP"])
    text = by_name(fd.fuse(model))[""].text
    expected = {
        None: "Linear, GELU, Dropout (0 to 2); Linear, Dropout (3 to 4)",
        nn.LayerNorm: "GELU, Dropout (2 to 3); Linear, Dropout (4 to 5)",
    }
    assert text == expected[norm_layer]


def test_mlp_block():
    assert_parity(
        MLPBlock(8, 12, 0.1), with_inputs(torch.randn(3, 5, 8)), fused_classes=["MLPBlock"]
    )


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("sizes", [(40,), (40, 3), (40, 3, 2, 2)])
def test_stochastic_depth(mode, sizes):
    depth = StochasticDepth(0.1, mode)
    # nn.Dropout makes different seeds give different outputs: a batch is rarely dropped.
    model = nn.Sequential(depth, nn.Dropout(0.1), nn.Linear(sizes[-1], 2))
    fused = assert_parity(
        model, with_inputs(torch.randn(*sizes)), fused_classes=["StochasticDepth"]
    )
    fused[0].p = 0.5
    draws = torch.stack(
        [fused[0](torch.ones(9, *sizes[1:])).flatten(1)[:, 0] for _ in range(64)]
        if len(sizes) > 1
        else [fused[0](torch.ones(9)) for _ in range(64)]
    )
    assert set(draws.unique().tolist()) == {0.0, 2.0}
    same = (draws == draws[:, :1]).all()
    assert same == (mode == "batch")
    assert repr(fused[0]) == f"StochasticDepth(p=0.5, mode={mode})"


def test_stochastic_depth_checks():
    depth = StochasticDepth(0.1, "row")
    fd.fuse(depth)
    depth.mode = "column"
    with pytest.raises(ValueError, match="mode is 'column', but expected 'batch' or 'row'"):
        depth(torch.ones(3, 2))
    depth.mode, depth.p = "row", 1.5
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        depth(torch.ones(3, 2))


def test_monte_carlo_mode_finds_stochastic_depth():
    model = nn.Sequential(StochasticDepth(0.5, "row"), nn.Linear(3, 3)).eval()
    fd.fuse(model)
    x = torch.randn(64, 3)
    with fd.mc_mode(model) as layers:
        assert list(layers) == ["0"] and layers["0"].independent_rows
        assert not torch.equal(model(x), model(x))
    assert torch.equal(model(x), model(x))
    model[0].mode = "batch"
    assert not model[0].independent_rows


def vit(**options):
    return VisionTransformer(
        image_size=16,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=16,
        mlp_dim=24,
        num_classes=3,
        **{"dropout": 0.1, "attention_dropout": 0.1, **options},
    )


@pytest.mark.parametrize("options", [{}, {"attention_dropout": 0.0}, {"norm_layer": nn.RMSNorm}])
def test_vision_transformer(options):
    model = vit(**options)
    nn.init.normal_(model.heads.head.weight)
    x = torch.randn(6, 3, 16, 16)
    assert_parity(model, with_inputs(x), fused_classes=["EncoderBlock", "MLPBlock"])


def test_reasons():
    block = EncoderBlock(4, 16, 24, 0.1, 0.1)
    block.dropout.register_forward_hook(lambda *_: None)
    assert [site.text for site in fd.fuse(block).skipped] == ["dropout has hooks"]
    block = EncoderBlock(4, 16, 24, 0.1, 0.1)
    block.self_attention.register_forward_hook(lambda *_: None)
    assert by_name(fd.fuse(block))[""].text.endswith("not fused: self_attention has hooks")

    class Depth(StochasticDepth):
        def forward(self, input):
            return input

    block = CNBlock(4, 1.0, 0.1)
    block.stochastic_depth = Depth(0.1, "row")
    report = by_name(fd.fuse(block))
    assert "Depth, a subclass of" in report[""].text
    assert "forward has no known fingerprint" in report["stochastic_depth"].text
    assert not report[""].fused and not report["stochastic_depth"].fused


@pytest.mark.parametrize("hooked", ["mlp", "mlp.4", "mlp.3", "ln_2", "dropout", "self_attention"])
def test_hooks_added_after_fuse(hooked):
    fused = EncoderBlock(4, 16, 24, 0.1, 0.0)
    unfused = copy.deepcopy(fused)
    fd.fuse(fused)
    seen = []
    for model in (fused, unfused):
        model.get_submodule(hooked).register_forward_hook(
            lambda module, inputs, output: seen.append(
                (output if isinstance(output, torch.Tensor) else output[0]).detach()
            )
        )
    call = with_inputs(torch.randn(3, 5, 16))
    got = run(fused, call)
    # The output of attention is transposed if it is called, and if dropout is.
    with ExplicitMasks(in_memory_order=hooked in ("dropout", "self_attention")):
        assert_equal_runs(run(unfused, call), got, 2e-5)
    ours, theirs = seen
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_monte_carlo_mode_of_a_block():
    block = EncoderBlock(4, 16, 24, 0.1, 0.1).eval()
    unfused = copy.deepcopy(block)
    fd.fuse(block)
    x = torch.randn(3, 5, 16)
    # The dropout of attention uses this package too.
    with fd.mc_mode(block):
        torch.manual_seed(0)
        got = block(x)
    with fd.mc_mode(unfused), ExplicitMasks():
        torch.manual_seed(0)
        torch.testing.assert_close(got, unfused(x), rtol=1e-4, atol=1e-5)
    for only in ("self_attention", "dropout", "mlp.2", "mlp.4"):
        with fd.mc_mode(block, only=only):
            assert not torch.equal(block(x), block(x)), only
    assert torch.equal(block(x), block(x))


def without_attention_dropout(model):
    """Switches off the dropout of Swin's attention, which ExplicitMasks does not cover.

    The probabilities are integers, so that `set_p` ignores them.
    """
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = module.dropout = 0
    return model


def swin(block, **options):
    options = {
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [2, 2],
        "window_size": [2, 2],
    } | options
    model = SwinTransformer(
        patch_size=[2, 2],
        dropout=0.1,
        stochastic_depth_prob=0.1,
        num_classes=3,
        block=block,
        **options,
    )
    return without_attention_dropout(model)


def efficientnet():
    settings = [FusedMBConvConfig(2, 3, 1, 8, 8, 2), MBConvConfig(2, 3, 1, 8, 8, 2)]
    settings.append(MBConvConfig(2, 3, 2, 8, 12, 1))  # without a residual
    model = EfficientNet(
        settings, dropout=0.1, stochastic_depth_prob=0.1, last_channel=16, num_classes=3,
        norm_layer=lambda width: nn.GroupNorm(2, width),
    )  # fmt: skip
    return model


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (
            lambda: ConvNeXt(
                [CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 2)], 0.1, 0.5, num_classes=3
            ),
            [CNBlock],
        ),
        (lambda: swin(SwinTransformerBlock), [SwinTransformerBlock]),
        (
            lambda: swin(SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
            [SwinTransformerBlockV2],
        ),
        (efficientnet, [MBConv, FusedMBConv]),
    ],
)
def test_blocks_with_stochastic_depth(make, blocks):
    names = [block.__name__ for block in blocks]
    call = with_inputs(torch.randn(6, 3, 16, 16))
    assert_parity(make(), call, fused_classes=[*names, "StochasticDepth"], tolerance=5e-5)


def test_head_of_vgg():
    """The classifier of VGG with smaller layers."""
    head = nn.Sequential(
        nn.Linear(18, 16), nn.ReLU(True), nn.Dropout(0.5),
        nn.Linear(16, 16), nn.ReLU(True), nn.Dropout(0.5),
        nn.Linear(16, 3),
    )  # fmt: skip
    assert_parity(head, with_inputs(torch.randn(7, 18)), fused_classes=["Sequential"])


def test_alexnet():
    model = AlexNet(num_classes=3)
    report = by_name(fd.fuse(model))
    assert "Dropout, Linear" not in report["classifier"].text
    x = torch.randn(2, 3, 64, 64)
    model.train()
    y = model(x)
    assert not torch.equal(model(x), y)
    unfused = fd.unfuse(copy.deepcopy(model))
    torch.manual_seed(0)
    got = model(x)
    torch.manual_seed(0)
    with ExplicitMasks():
        torch.testing.assert_close(got, unfused(x), rtol=1e-4, atol=1e-5)


FX_MODELS = {
    "resnet": (lambda: nn.Sequential(ResNet(BasicBlock, [1, 1, 1, 1], 3), nn.Dropout(0.1)), "1"),
    "densenet": (lambda: DenseNet(4, (1, 1, 1), 8, drop_rate=0.1, num_classes=3), "classifier"),
    "vit": (vit, "encoder.layers.encoder_layer_0.add_1"),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(8, 12, 2)], 0.5, num_classes=3), "features.1"),
    "swin": (lambda: swin(SwinTransformerBlock), "features.1.1.add_1"),
    "swin v2": (
        lambda: swin(SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        "features.3.0.add_1",
    ),
    "efficientnet": (efficientnet, "features.1.1"),
}


@pytest.mark.parametrize("make, node", FX_MODELS.values(), ids=FX_MODELS.keys())
def test_feature_extractor(make, node):
    """torchvision traces a model in training and in evaluation with torch.fx."""
    model = make()
    fused = copy.deepcopy(model)
    fd.fuse(fused)
    extractors = [create_feature_extractor(one, {node: "out"}) for one in (model, fused)]
    x = torch.randn(6, 3, 32, 32) if make is not vit else torch.randn(6, 3, 16, 16)
    for training in (False, True):  # batch norms have the same statistics in the first
        graphs = [one.train(training).graph for one in extractors]
        names = [[(one.op, one.name, one.target) for one in graph.nodes] for graph in graphs]
        # The position bias of Swin v2 depends on constants only, so its layers see no proxies.
        assert names[0] == names[1] or node == "features.3.0.add_1"
        plain, ours = (one(x)["out"] for one in extractors)
        if not training:
            torch.testing.assert_close(ours, plain)
    assert plain.shape == ours.shape
    ours.sum().backward()


def test_compiled_block():
    block = EncoderBlock(4, 16, 24, 0.1, 0.1)
    fd.fuse(block)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, 16)
    torch.manual_seed(0)
    expected = block(x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    compiled(x).sum().backward()
