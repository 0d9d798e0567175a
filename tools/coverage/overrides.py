"""What the rules of ``shrink.py`` get wrong: fields by family, with the values that they need."""

import torch
from transformers import Dinov2Config, ResNetConfig
from transformers.models.dbrx.configuration_dbrx import DbrxAttentionConfig


def _resnet(*stages):
    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=[f"stage{stage}" for stage in stages],
    )


def _dinov2():
    """A backbone with four outputs."""
    return Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)],
        reshape_hidden_states=False,
    )


_DEPTH = {"neck_hidden_sizes": [8, 8, 16, 16], "reassemble_hidden_size": 32}
_EFFICIENTNET = {
    "width_coefficient": 1.0,
    "depth_coefficient": 1.0,
    "depth_divisor": 8,
    "image_size": 64,
    "in_channels": [32, 8, 8],
    "out_channels": [8, 8, 16],
    "kernel_sizes": [3, 3, 5],
    "strides": [1, 2, 2],
    "num_block_repeats": [1, 2, 2],
    "expand_ratios": [1, 6, 6],
}
_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SERIES = {"prediction_length": 4, "context_length": 16, "lags_sequence": [1, 2]}
_HEADS = {"num_key_value_heads": 4, "num_attention_heads": 4}
_DETR = {"use_timm_backbone": False}

# {family: function that returns fields of its configuration}
CONFIGURATIONS = {
    "align": lambda: {"projection_dim": 16},
    "align_vision_model": lambda: {**_EFFICIENTNET, "hidden_dim": 16},
    "autoformer": lambda: {**_SERIES, "label_length": 4, "moving_average": 3},
    "bit": lambda: {"num_groups": 4},
    "bridgetower_vision_model": lambda: {"hidden_size": 128, "image_size": 64},
    "chameleon": lambda: {"vocabulary_map": {"<image>": 100, "IMGIMGBAZ": 101}},
    "conditional_detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "dab-detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "dbrx": lambda: {
        "attn_config": DbrxAttentionConfig(kv_n_heads=2, clip_qkv=8.0, rope_theta=10000.0)
    },
    "deepseek_v2": lambda: {"moe_intermediate_size": 64, "n_group": 1, "topk_group": 1},
    "deformable_detr": lambda: {**_DETR, "backbone_config": _resnet(2, 3, 4)},
    "depth_anything": lambda: {**_DEPTH, "backbone_config": _dinov2()},
    "detr": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "diffusion_gemma_text": lambda: {
        "num_experts": 8,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    },
    "dots1": lambda: _EXPERTS,
    "efficientnet": lambda: {**_EFFICIENTNET, "hidden_dim": 1280},
    "emu3": lambda: {"vocabulary_map": {"<image>": 100, "<|extra_200|>": 101}},
    "esm": lambda: {
        "vocab_size": 128,
        "position_embedding_type": "rotary",
        "mask_token_id": 4,
        "pad_token_id": 1,
    },
    "gemma3": lambda: {"mm_tokens_per_image": 4},
    "gemma3n_text": lambda: {"num_kv_shared_layers": 0},
    "gpt_neo": lambda: {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "informer": lambda: _SERIES,
    "instructblip": lambda: {"image_token_index": 100, "num_query_tokens": 4},
    "instructblipvideo": lambda: {"video_token_index": 100, "num_query_tokens": 4},
    "kosmos-2": lambda: {"latent_query_num": 4},
    "lfm2_moe": lambda: {"layer_types": ["full_attention", "conv"], "num_hidden_layers": 2},
    "lw_detr": lambda: {"projector_scale_factors": [1.0]},
    "molmo2_adapter": lambda: {"vision_feature_layer": [1, 0]},
    "nemotron": lambda: _HEADS,
    "paddleocr_vl_text": lambda: {"rope_parameters": {**_ROPE, "mrope_section": [4, 2, 2]}},
    "pegasus_x": lambda: {"block_size": 8, "num_global_tokens": 4},
    "prompt_depth_anything": lambda: {
        **_DEPTH,
        "backbone_config": _dinov2(),
    },
    "qwen2_vl_text": lambda: {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2_vl_vision": lambda: {"hidden_size": 64, "embed_dim": 64, "num_heads": 4},
    "reformer": lambda: {"axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"]},
    "sam2_hiera_det_model": lambda: {
        "image_size": [128, 128],
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "global_attention_blocks": [3],
    },
    "sam2_prompt_encoder": lambda: {"image_size": 128},
    "sam2_vision_model": lambda: {
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "fpn_hidden_size": 32,
    },
    "sam3_vision_model": lambda: {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "seggpt": lambda: {
        "image_size": [128, 64],
        "merge_index": 0,
        "intermediate_hidden_state_indices": [0, 1],
    },
    "superpoint": lambda: {"max_keypoints": 16},
    "swin2sr": lambda: {"image_size": 16, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2]},
    "table-transformer": lambda: {**_DETR, "backbone_config": _resnet(4)},
    "time_series_transformer": lambda: _SERIES,
    "timm_backbone": lambda: {"backbone": "resnet18"},
    "vitmatte": lambda: {
        "hidden_size": 96,
        "convstream_hidden_sizes": [8, 16, 16],
        "fusion_hidden_sizes": [32, 16, 16, 8],
    },
    "vits": lambda: {
        "upsample_rates": [2, 2],
        "upsample_kernel_sizes": [4, 4],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1]],
    },
    "xmod": lambda: {"default_language": "en_XX"},
    "zamba2": lambda: {"layers_block_type": ["mamba", "hybrid"], "num_hidden_layers": 2},
    "zoedepth": lambda: {
        "neck_hidden_sizes": [8, 8, 16, 16],
        "backbone_config": _dinov2(),
    },
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


def _words(config):
    return torch.randint(8, 60, (2, 8))


def _image_pairs(config):
    return {"pixel_values": torch.randn(2, 2, 3, 64, 64)}


def _lxmert(config):
    return {
        "input_ids": _words(config),
        "visual_feats": torch.randn(2, 6, config.visual_feat_dim),
        "visual_pos": torch.rand(2, 6, config.visual_pos_dim),
    }


def _pix2struct_vision(config):
    width = getattr(config, "vision_config", config).patch_embed_hidden_size
    places = torch.cartesian_prod(torch.arange(1, 3), torch.arange(1, 3)).expand(2, -1, -1)
    return {"flattened_patches": torch.cat([places.float(), torch.randn(2, 4, width)], -1)}


def _pix2struct(config):
    return {**_pix2struct_vision(config), "decoder_input_ids": _words(config)}


def _seggpt(config):
    names = "pixel_values", "prompt_pixel_values", "prompt_masks"
    return {name: torch.randn(2, 3, 64, 64) for name in names}


def _siglip2_vision(config):
    config = getattr(config, "vision_config", config)
    return {
        "pixel_values": torch.randn(2, 16, config.num_channels * config.patch_size**2),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * 2),
    }


def _siglip2(config):
    return {"input_ids": _words(config), **_siglip2_vision(config)}


def _idefics(config):
    size = config.vision_config.image_size
    return {
        "input_ids": _words(config),
        "pixel_values": torch.randn(2, 1, 3, size, size),
        "image_attention_mask": torch.ones(2, 8, 1, dtype=torch.long),
    }


def _dia_decoder(config):
    return {
        "input_ids": torch.randint(8, 60, (2, 8, config.num_channels)),
        "encoder_hidden_states": torch.randn(2, 8, config.cross_hidden_size),
    }


def _mllama_vision(config):
    tiles, size = config.max_num_tiles, config.image_size
    return {
        "pixel_values": torch.randn(2, 1, tiles, 3, size, size),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(2, 1, tiles, dtype=torch.long),
    }


def _oneformer(config):
    return {
        "pixel_values": torch.randn(2, 3, 64, 64),
        "task_inputs": torch.randint(8, 60, (2, config.task_seq_len)),
    }


def _xclip_vision(config):
    size = config.image_size
    return {"pixel_values": torch.randn(config.num_frames, 3, size, size)}


def _blip_2_qformer(config):
    return {
        "query_embeds": torch.randn(2, 8, config.hidden_size),
        "encoder_hidden_states": torch.randn(2, 8, config.encoder_hidden_size),
    }


# {family: function of a configuration that returns inputs}
INPUTS = {
    "blip_2_qformer": _blip_2_qformer,
    "decision_transformer": _decision_transformer,
    "dia_decoder": _dia_decoder,
    "efficientloftr": _image_pairs,
    "idefics": _idefics,
    "kosmos-2": _kosmos_2,
    "lightglue": _image_pairs,
    "lxmert": _lxmert,
    "mllama_vision_model": _mllama_vision,
    "oneformer": _oneformer,
    "pix2struct": _pix2struct,
    "pix2struct_vision_model": _pix2struct_vision,
    "seggpt": _seggpt,
    "siglip2": _siglip2,
    "siglip2_vision_model": _siglip2_vision,
    "superglue": _image_pairs,
    "xclip_vision_model": _xclip_vision,
}
