"""Inputs from the names of the parameters of ``forward``."""

import pytest
import torch

from tools.coverage.inputs import BATCH, candidate_inputs, with_placeholders


class Configuration:
    model_type = "net"
    is_encoder_decoder = False
    image_token_id, audio_token_id, vision_start_token_id = 100, 101, 102
    hidden_size = 4
    patch_size = 2

    def to_diff_dict(self):
        return {}


class Net:
    config = Configuration()
    main_input_name = ("pixel_values", "input_ids")

    def forward(self, input_ids, pixel_values, image_grid_thw=None, mm_token_type_ids=None):
        pass


def test_images_as_patches_have_a_grid_that_fits():
    inputs = next(iter(candidate_inputs(Net())))
    patches = inputs["image_grid_thw"].prod(-1).sum()
    assert inputs["pixel_values"].shape == (patches, 3 * Net.config.patch_size**2)
    assert inputs["mm_token_type_ids"].shape == inputs["input_ids"].shape


class Sounds(Net):
    main_input_name = "input_features"

    def forward(self, input_ids=None, input_features=None, feature_attention_mask=None):
        pass


def test_sounds_have_a_mask():
    inputs = next(iter(candidate_inputs(Sounds())))
    frames = max(inputs["input_features"].shape[1:])
    assert inputs["feature_attention_mask"].shape == (BATCH, frames)


@pytest.mark.parametrize(
    ("message", "token", "number"),
    [
        ("Image features and image tokens do not match, tokens: 0, features: 6", 100, 3),
        ("Image features and image tokens do not match: tokens: 0, features 6", 100, 3),
        ("Audio features and audio tokens do not match, tokens: 0, features: 8", 101, 4),
        ("Image features and image tokens do not match, tokens: 0, features: 24", 100, 3),
    ],
)
def test_placeholders(message, token, number):
    ids = torch.arange(16).view(2, 8)
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    found = [
        changed
        for changed in with_placeholders(inputs, message, Net.config)
        if (changed["input_ids"] == token).sum() == BATCH * number
    ]
    assert len(found) == 1
    assert torch.equal(found[0]["mm_token_type_ids"] == 1, found[0]["input_ids"] == token)
    assert (found[0]["input_ids"][:, 1] == Net.config.vision_start_token_id).all()


def test_other_messages_change_nothing():
    inputs = {"input_ids": torch.arange(16).view(2, 8)}
    assert list(with_placeholders(inputs, "shapes do not match", Net.config)) == []
