"""Layers of transformers whose arguments and results differ between its versions.

The tests call the layers in the way of the installed version, with all that it returns.
"""

import inspect

import pytest
import torch
import transformers as hf
from transformers.models.t5 import modeling_t5 as t5

import fused_dropout as fd
from tests.fusion.packages.hf_models import BART, IMAGES, SIZES, T5, build
from tests.fusion.parity import assert_parity, with_inputs

LENGTH = 5
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
PADDING = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]).bool()[:, None, None]


def parameters(layer):
    return inspect.signature(inspect.unwrap(type(layer).forward)).parameters


def supported(layer, **arguments):
    """Those of the arguments that the layer has in the installed version."""
    return {name: x for name, x in arguments.items() if name in parameters(layer)}


def inputs():
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(2, n, 32, generator=generator) for n in (LENGTH, 7))


def layers_of(family):
    config = getattr(hf, f"{family}Config")(**BART, pad_token_id=0, decoder_start_token_id=0)
    model = build(getattr(hf, f"{family}Model"), config)
    return model.encoder.layers[0], model.decoder.layers[0]


FAMILIES = ["Bart", "MBart", "Whisper", "Pegasus"]


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_layers(family):
    layer, _ = layers_of(family)
    _, x = inputs()
    call = with_inputs(x, PADDING, **supported(layer, layer_head_mask=None))
    assert_parity(layer, call, fused_classes=[f"{family}Attention", f"{family}EncoderLayer"])


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_layers_in_float16(family):
    """The original layer runs, which clamps its result."""
    layer, _ = layers_of(family)
    layer = layer.to(torch.float16)
    options = supported(layer, layer_head_mask=None)
    fd.fuse(layer)
    x = next(inputs()).to(torch.float16)
    result = layer(x, None, **options)
    result = result if isinstance(result, torch.Tensor) else result[0]
    assert result.dtype == torch.float16 and result.isfinite().all()


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoder_layers(family, memory):
    _, layer = layers_of(family)
    x, y = inputs()
    call = with_inputs(x, CAUSAL, *((y, PADDING) if memory else ()), use_cache=False)
    assert_parity(layer, call, fused_classes=[f"{family}Attention", f"{family}DecoderLayer"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("memory", [False, True])
def test_attention_weights_of_decoder_layers(family, memory):
    """Older versions return them if asked for, after the output."""
    _, layer = layers_of(family)
    if "output_attentions" not in parameters(layer):
        pytest.skip("this version of the layer does not return them")
    layer.self_attn.config._attn_implementation = "eager"
    layer.dropout = layer.activation_dropout = 0.0
    for attention in (layer.self_attn, layer.encoder_attn):
        attention.dropout = 0.0
    x, y = inputs()
    causal = torch.zeros(CAUSAL.shape).masked_fill(~CAUSAL, -torch.inf)
    arguments = {"attention_mask": causal, "use_cache": False, "output_attentions": True}
    if memory:
        arguments["encoder_hidden_states"] = y
    expected = layer(x, **arguments)
    fd.fuse(layer)
    results = layer(x, **arguments)
    assert len(results) == len(expected) == 3
    for wanted, got in zip(expected, results, strict=True):
        assert (wanted is None) == (got is None)
        assert wanted is None or torch.allclose(wanted, got, atol=1e-5)


def without_dropout(module, _):
    module.dropout = 0.0


@pytest.mark.parametrize("cls", [t5.T5LayerSelfAttention, t5.T5LayerCrossAttention])
def test_t5_layers(cls):
    """Without dropout in the attention, which older versions compute by themselves."""
    layer = cls(hf.T5Config(**T5), layer_idx=0)
    attention = layer.SelfAttention if "Self" in cls.__name__ else layer.EncDecAttention
    x, y = inputs()
    arguments = supported(layer, cache_position=torch.arange(LENGTH))
    if "Cross" in cls.__name__:
        arguments["key_value_states"] = y
    attention.register_forward_pre_hook(without_dropout)
    assert_parity(layer, with_inputs(x, **arguments), fused_classes=[cls.__name__])


def test_t5_layers_pass_all_arguments():
    """Options by position and by name, as far as the installed version has them."""
    layer = t5.T5LayerSelfAttention(hf.T5Config(**T5), has_relative_attention_bias=True)
    layer = layer.train()
    layer.dropout.p = layer.SelfAttention.dropout = 0.0
    x, _ = inputs()
    bias = torch.randn(1, 4, LENGTH, LENGTH)
    options = supported(
        layer, use_cache=False, output_attentions=True, cache_position=torch.arange(LENGTH)
    )
    calls = [
        lambda: layer(x, None, bias, **options),
        lambda: layer(x, position_bias=bias, **options),
        lambda: layer(x, attention_mask=torch.zeros(1, 1, 1, LENGTH), **options),
    ]
    expected = [call() for call in calls]
    fd.fuse(layer)
    for call, wanted in zip(calls, expected, strict=True):
        result = call()
        assert len(result) == len(wanted)
        for a, b in zip(wanted, result, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, atol=1e-5)
    with pytest.raises(TypeError):
        layer(x, *[None] * 20)


def test_vit_layers():
    model = build(hf.ViTModel, hf.ViTConfig(**IMAGES))
    stack = getattr(model, "encoder", model)
    layer = (stack.layer if hasattr(stack, "layer") else stack.layers)[0]
    assert_parity(layer, with_inputs(next(inputs())), fused_classes=["ViTLayer"])


@pytest.mark.parametrize("family", ["Beit", "ConvNext", "Dinov2", "Swin"])
def test_drop_path(family):
    module = __import__(f"transformers.models.{family.lower()}", fromlist=["x"])
    path = getattr(getattr(module, f"modeling_{family.lower()}"), f"{family}DropPath")
    layer = path(0.5).train()
    (site,) = fd.fuse(layer).fused
    assert site.group == "transformers"
    x = torch.randn(400, 2, 3)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    kept = fd.functional.dropout_mask(x.shape, 0.5, fd.new_rng_state(), shared_dims=(1, 2))
    assert torch.equal(y, torch.where(kept, 2 * x, 0))


@pytest.mark.parametrize("key_value_heads", [4, 2])
def test_attention_through_the_table(key_value_heads):
    """The code of the library around the attention runs as it is, with groups of heads too."""
    config = hf.LlamaConfig(
        **SIZES, num_key_value_heads=key_value_heads, attention_dropout=0.1, pad_token_id=0
    )
    model = build(hf.LlamaModel, config)

    def call(model):
        ids = torch.arange(5, 5 + 12).view(2, 6)
        return [model(input_ids=ids, use_cache=False).last_hidden_state], []

    assert_parity(model, call, fused_classes=["LlamaAttention"])
