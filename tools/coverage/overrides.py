"""What the rules of ``shrink.py`` get wrong: fields by family, with the values that they need."""

import torch
from transformers import ResNetConfig


def _resnet(*stages):
    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[f"stage{stage}" for stage in stages],
    )


_SERIES = {"prediction_length": 4, "context_length": 16, "lags_sequence": [1, 2]}
_HEADS = {"num_key_value_heads": 4, "num_attention_heads": 4}
_DETR = {"use_timm_backbone": False}

# {family: function that returns fields of its configuration}
CONFIGURATIONS = {
    "autoformer": lambda: {**_SERIES, "label_length": 4, "moving_average": 3},
    "bit": lambda: {"num_groups": 4},
    "conditional_detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "dab-detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "deformable_detr": lambda: {**_DETR, "backbone_config": _resnet(2, 3, 4)},
    "detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "esm": lambda: {
        "vocab_size": 128,
        "position_embedding_type": "rotary",
        "mask_token_id": 4,
        "pad_token_id": 1,
    },
    "gpt_neo": lambda: {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "informer": lambda: _SERIES,
    "kosmos-2": lambda: {"latent_query_num": 4},
    "lfm2_moe": lambda: {"layer_types": ["full_attention", "conv"], "num_hidden_layers": 2},
    "nemotron": lambda: _HEADS,
    "pegasus_x": lambda: {"block_size": 8, "num_global_tokens": 4},
    "reformer": lambda: {"axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"]},
    "table-transformer": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "time_series_transformer": lambda: _SERIES,
}


def _decision_transformer(config):
    steps = 2, 5
    return {
        "states": torch.randn(*steps, config.state_dim),
        "actions": torch.randn(*steps, config.act_dim),
        "returns_to_go": torch.randn(*steps, 1),
        "timesteps": torch.arange(5).repeat(2, 1),
    }


def _kosmos_2(config):
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 1:5] = True
    size = config.vision_config.image_size
    return {
        "pixel_values": torch.randn(2, 3, size, size),
        "input_ids": torch.randint(8, 60, (2, 8)),
        "image_embeds_position_mask": mask,
    }


# {family: function of a configuration that returns inputs}
INPUTS = {"decision_transformer": _decision_transformer, "kosmos-2": _kosmos_2}
