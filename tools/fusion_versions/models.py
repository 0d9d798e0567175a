"""The models that are fused with every version: small ones, with dropout in all places."""

import torch

P = 0.1
WORDS = 50
_TIMM = """
vit_tiny_patch16_224 eva02_tiny_patch14_224 beit_base_patch16_224 swin_tiny_patch4_window7_224
convnext_atto mixer_s16_224 resnet18 efficientnet_b0
"""

_DROPS = {"hidden_dropout_prob": P, "attention_probs_dropout_prob": P}
_BERT = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    **_DROPS,
}
_IMAGES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
}
_BART = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "dropout": P,
    "attention_dropout": P,
    "activation_dropout": P,
}
_LLAMA = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "attention_dropout": P,
}
# {family: (name of the model class, fields of its configuration)}
TRANSFORMERS = {
    "bert": ("BertModel", _BERT),
    "roberta": ("RobertaModel", {**_BERT, "pad_token_id": 1}),
    "electra": ("ElectraModel", {**_BERT, "embedding_size": 32}),
    "deberta-v2": ("DebertaV2Model", _BERT),
    "distilbert": (
        "DistilBertModel",
        {
            "vocab_size": WORDS,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 48,
            "dropout": P,
            "attention_dropout": P,
        },
    ),
    "modernbert": (
        "ModernBertModel",
        {
            **{key: value for key, value in _BERT.items() if key not in _DROPS},
            "pad_token_id": 0,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "embedding_dropout": P,
            "attention_dropout": P,
            "mlp_dropout": P,
        },
    ),
    "gpt2": (
        "GPT2Model",
        {
            "vocab_size": WORDS,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 40,
            "resid_pdrop": P,
            "embd_pdrop": P,
            "attn_pdrop": P,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "opt": (
        "OPTModel",
        {
            "vocab_size": WORDS,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 40,
            "dropout": P,
            "attention_dropout": P,
        },
    ),
    "t5": (
        "T5Model",
        {
            "vocab_size": WORDS,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "dropout_rate": P,
            "decoder_start_token_id": 0,
        },
    ),
    "bart": ("BartModel", {**_BART, "max_position_embeddings": 40}),
    "mbart": ("MBartModel", {**_BART, "max_position_embeddings": 40}),
    "whisper": (
        "WhisperModel",
        {
            **_BART,
            "num_mel_bins": 8,
            "max_source_positions": 10,
            "max_target_positions": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
        },
    ),
    "llama": ("LlamaModel", _LLAMA),
    "mistral": ("MistralModel", _LLAMA),
    "qwen2": ("Qwen2Model", _LLAMA),
    "vit": ("ViTModel", {**_IMAGES, **_DROPS}),
    "beit": ("BeitModel", {**_IMAGES, **_DROPS, "drop_path_rate": P}),
    "dinov2": ("Dinov2Model", {**_IMAGES, **_DROPS, "mlp_ratio": 2, "drop_path_rate": P}),
    "swin": (
        "SwinModel",
        {
            "image_size": 16,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "drop_path_rate": P,
            **_DROPS,
        },
    ),
    "clip": (
        "CLIPModel",
        {
            "text_config": {
                **{key: value for key, value in _BERT.items() if key not in _DROPS},
                "attention_dropout": P,
                "eos_token_id": 2,
            },
            "vision_config": {**_IMAGES, "attention_dropout": P},
            "projection_dim": 16,
        },
    ),
    "wav2vec2": (
        "Wav2Vec2Model",
        {
            **{key: value for key, value in _BERT.items() if key not in _DROPS},
            "conv_dim": [16, 16],
            "conv_stride": [5, 2],
            "conv_kernel": [10, 3],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
            "hidden_dropout": P,
            "attention_dropout": P,
            "activation_dropout": P,
            "feat_proj_dropout": P,
            "layerdrop": 0.0,
            "apply_spec_augment": False,
        },
    ),
}


def transformers_model(family):
    """A model in training mode, and its inputs."""
    import transformers

    name, fields = TRANSFORMERS[family]
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    model = cls(cls.config_class(**fields)).train()
    ids = torch.randint(5, WORDS, (2, 6))
    inputs = {
        "input_ids": {"input_ids": ids},
        "pixel_values": {"pixel_values": torch.randn(2, 3, *[fields.get("image_size", 8)] * 2)},
        "input_values": {"input_values": torch.randn(2, 200)},
        "input_features": {"input_features": torch.randn(2, 8, 20)},
    }
    chosen = dict(inputs[model.main_input_name])
    if model.config.is_encoder_decoder:
        chosen["decoder_input_ids"] = ids
    if "vision_config" in fields:
        chosen |= inputs["pixel_values"]
    return model, chosen


def timm_model(name):
    """A model in training mode, and its inputs."""
    from tools.coverage.timm_models import build, images_for

    model = build(name)
    return model, {"x": images_for(model)}


BUILDERS = {"transformers": (TRANSFORMERS, transformers_model), "timm": (_TIMM.split(), timm_model)}
