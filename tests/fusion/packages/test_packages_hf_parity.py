"""transformers models: fused against unfused."""

import pytest
import torch
import transformers as hf

import fused_dropout as fd
from tests.fusion.packages.hf_models import (
    BART,
    IMAGES,
    SIZES,
    T5,
    bert,
    build,
    call_both,
    call_decoder,
    call_encoder,
    call_images,
    words,
)
from tests.fusion.parity import assert_parity, set_p, with_inputs

ROBERTA = SIZES | {"pad_token_id": 1}
LLAMA = SIZES | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
SOUNDS = {
    "vocab_size": 10,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (16, 16),
    "conv_kernel": (10, 3),
    "conv_stride": (5, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
    "layerdrop": 0.0,
}

MODELS = {
    "bert": (
        lambda: bert(),
        call_encoder,
        ["BertSelfAttention", "BertSelfOutput", "BertIntermediate", "BertOutput", "Dropout"],
    ),
    "bert decoder": (
        lambda: bert(is_decoder=True),
        call_decoder,
        ["BertSelfAttention", "BertSelfOutput", "BertIntermediate", "BertOutput"],
    ),
    "roberta": (
        lambda: build(hf.RobertaModel, hf.RobertaConfig(**ROBERTA)),
        call_encoder,
        ["RobertaSelfAttention", "RobertaSelfOutput", "RobertaIntermediate", "RobertaOutput"],
    ),
    "electra": (
        lambda: build(hf.ElectraModel, hf.ElectraConfig(**SIZES, embedding_size=16)),
        call_encoder,
        ["ElectraSelfAttention", "ElectraSelfOutput", "ElectraIntermediate", "ElectraOutput"],
    ),
    "roberta prelayernorm": (
        lambda: build(hf.RobertaPreLayerNormModel, hf.RobertaPreLayerNormConfig(**ROBERTA)),
        call_encoder,
        ["RobertaPreLayerNormSelfOutput", "RobertaPreLayerNormOutput"],
    ),
    "vit": (
        lambda: build(hf.ViTModel, hf.ViTConfig(**IMAGES)),
        call_images,
        ["ViTAttention", "ViTMLP", "ViTLayer"],
    ),
    "yolos": (
        lambda: build(
            hf.YolosModel,
            hf.YolosConfig(**IMAGES | {"image_size": [8, 8], "num_detection_tokens": 3}),
        ),
        call_images,
        ["YolosSelfOutput", "YolosOutput", "YolosIntermediate"],
    ),
    "gpt2": (
        lambda: build(hf.GPT2Model, hf.GPT2Config(**GPT2)),
        call_decoder,
        ["GPT2Attention", "GPT2MLP"],
    ),
    "llama": (
        lambda: build(hf.LlamaModel, hf.LlamaConfig(**LLAMA)),
        call_decoder,
        ["LlamaAttention"],
    ),
    "t5": (
        lambda: build(hf.T5Model, hf.T5Config(**T5)),
        call_both,
        [
            "T5Attention",
            "T5DenseActDense",
            "T5LayerFF",
            "T5LayerSelfAttention",
            "T5LayerCrossAttention",
        ],
    ),
    "t5 gated": (
        lambda: build(hf.T5Model, hf.T5Config(**T5, feed_forward_proj="gated-gelu")),
        call_both,
        ["T5DenseGatedActDense"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    make, call, fused_classes = MODELS[name]
    assert_parity(make(), call, fused_classes=fused_classes)


# masks=False, because BART's encoder and decoder also call dropout outside of their layers.
@pytest.mark.parametrize("family", ["Bart", "MBart", "Marian", "Pegasus"])
def test_bart_layers(family):
    config = getattr(hf, f"{family}Config")(**BART, pad_token_id=0, decoder_start_token_id=0)
    model = build(getattr(hf, f"{family}Model"), config)
    fused_classes = [f"{family}Attention", f"{family}EncoderLayer", f"{family}DecoderLayer"]
    assert_parity(model, call_both, fused_classes=fused_classes, masks=False)

    x, memory = torch.randn(3, 5, 32), torch.randn(3, 7, 32)
    _, attention_mask = words()
    visible = attention_mask[:, None, None].bool()
    causal = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    assert_parity(
        model.encoder.layers[0], with_inputs(memory, visible), fused_classes=fused_classes[:2]
    )
    assert_parity(
        model.decoder.layers[0],
        with_inputs(x, causal, memory, visible, use_cache=False),
        fused_classes=[fused_classes[0], fused_classes[2]],
    )
    assert_parity(model.decoder.layers[0], with_inputs(x, causal), fused_classes=[fused_classes[2]])


def test_a_layer_of_wav2vec2():
    """One layer, because the model has a parametrised convolution, which cannot be pickled."""
    model = build(hf.Wav2Vec2Model, hf.Wav2Vec2Config(**SOUNDS))
    fused_classes = ["Wav2Vec2Attention", "Wav2Vec2FeedForward"]
    assert_parity(
        model.encoder.layers[0], with_inputs(torch.randn(3, 7, 32)), fused_classes=fused_classes
    )


def test_drop_path():
    """The unfused layer draws with `torch.rand`, so the fused mask is checked without it."""
    model = build(hf.Dinov2Model, hf.Dinov2Config(**IMAGES, drop_path_rate=0.5))
    assert_parity(model, call_images, fused_classes=["Dinov2DropPath", "Dinov2MLP"], masks=False)
    (layer,) = [m for m in model.modules() if type(m).__name__ == "Dinov2DropPath"][-1:]
    fd.fuse(layer)
    x = torch.randn(4000, 2, 3)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    kept = fd.functional.dropout_mask(x.shape, 0.5, fd.new_rng_state(), shared_dims=(1, 2))
    assert torch.equal(y, torch.where(kept, 2 * x, 0))
    assert abs(kept[:, 0, 0].float().mean() - 0.5) < 5 * 0.5 / 4000**0.5


def test_attention_without_dropout_calls_the_original_function():
    unfused, fused = bert().train(), bert().train()
    fd.fuse(fused, patterns="transformers")
    for one in (unfused, fused):
        set_p(one, 0.0)
    ids, attention_mask = words()
    attentions = []
    for one in (unfused, fused):
        module = one.encoder.layer[0].attention.self
        module.register_forward_hook(lambda _, inputs, output: attentions.append(output[0]))
        one(input_ids=ids, attention_mask=attention_mask)
    assert torch.equal(*attentions)


@pytest.mark.parametrize("padding", [False, True])
def test_causal_attention_with_and_without_a_mask(padding):
    """Without padding there is no mask, and the model passes `is_causal`."""

    def call(model):
        ids, attention_mask = words()
        attention_mask = attention_mask if padding else None
        return [
            model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        ], []

    assert_parity(build(hf.GPT2Model, hf.GPT2Config(**GPT2)), call, fused_classes=["GPT2Attention"])
