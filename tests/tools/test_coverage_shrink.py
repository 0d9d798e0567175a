"""The rules that make a configuration small, by the names of its fields."""

import pytest

from tools.coverage.shrink import (
    GROUPED,
    POSITIONS,
    QUERIES,
    VOCABULARY,
    WINDOW,
    Plan,
    small,
    small_value,
)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hidden_size", 768, 96),
        ("num_attention_heads", 12, 12),
        ("head_dim", 64, 8),
        ("d_model", 1024, 128),
        ("hidden_sizes", (64, 128), (8, 16)),
        ("conv_dim", (512, 512), (64, 64)),
        ("num_hidden_layers", 12, 2),
        ("encoder_layers", 1, 1),
        ("depths", (2, 2, 6, 2), (2, 2, 2, 2)),
        ("vocab_size", 30522, VOCABULARY),
        ("max_position_embeddings", 512, POSITIONS),
        ("image_size", 224, 64),
        ("patch_size", 16, 16),
        ("num_channels", 3, 3),
        ("conv_kernel_size", 31, 31),
        ("num_local_experts", 64, 8),
        ("eos_token_id", 2, 2),
        ("out_indices", (3, 5, 7), (0, 1)),
        ("attn_layers", ("local", "lsh"), ("local", "lsh")),
        ("hidden_act", "gelu", "gelu"),
        ("use_cache", True, True),
        ("hidden_dropout_prob", 0.1, 0.1),
        ("hidden_size", 100, 100),  # not divisible
        ("num_queries", 300, QUERIES),
        ("mamba_chunk_size", 256, WINDOW),
        ("base_channels", 128, GROUPED),
        ("num_pos_feats", 128, 16),
    ],
)
def test_fields(name, value, expected):
    assert small_value(name, value, Plan()) == expected


def test_tokens_stay_in_the_vocabulary_and_differ():
    tokens = [small_value("image_token_id", value, Plan()) for value in (50256, 50257, 50258)]
    assert len(set(tokens)) == 3
    assert all(0 <= token < VOCABULARY for token in tokens)


class Part:
    model_type = "part"

    def __init__(self, hidden_size=768, num_layers=12):
        self.hidden_size, self.num_layers = hidden_size, num_layers

    def to_diff_dict(self):
        return vars(self)


class Whole(Part):
    model_type = "whole"

    def __init__(self, hidden_size=512, heads=None, vision=None):
        super().__init__(hidden_size)
        self.vision = vision or Part()
        self.heads = heads or hidden_size // 64  # derived from another field


def test_parts_become_small_and_derived_fields_stay_derived():
    config = small(Whole, Plan())
    assert (config.hidden_size, config.heads) == (64, 1)
    assert (config.vision.hidden_size, config.vision.num_layers) == (96, 2)


def test_overrides_take_the_place_of_a_rule():
    overrides = {"whole": lambda: {"hidden_size": 320}, "part": lambda: {"num_layers": 3}}
    config = small(Whole, Plan(), overrides)
    assert config.hidden_size == 320
    assert (config.vision.hidden_size, config.vision.num_layers) == (96, 3)


class Text(Part):
    ignore_keys_at_rope_validation = frozenset({"mrope_section"})

    def __init__(self, hidden_size=512, num_attention_heads=4, head_dim=None):
        super().__init__(hidden_size)
        self.num_attention_heads, self.head_dim = num_attention_heads, head_dim
        self.rope_parameters = {"rope_type": "default"}


def test_fields_that_a_configuration_lacks():
    config = small(Text, Plan())
    assert config.head_dim == 16
    assert config.rope_parameters["mrope_section"] == [4, 2, 2]


class Tower(Part):
    def __init__(self, hidden_size=1152, num_heads=16, out_hidden_size=4096):
        super().__init__(hidden_size)
        self.num_heads, self.out_hidden_size = num_heads, out_hidden_size


class TextAndImages:
    model_type = "both"

    def __init__(self, text_config=None, vision_config=None):
        self.text_config = text_config or Text()
        self.vision_config = vision_config or Tower()


def test_a_tower_for_images_fits_its_heads_and_the_text():
    vision = small(TextAndImages, Plan()).vision_config
    assert (vision.hidden_size, vision.num_heads) == (144, 12)
    assert vision.out_hidden_size == 64
