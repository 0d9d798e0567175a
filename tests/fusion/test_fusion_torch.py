"""Transformer layers of torch.nn with all options: fused against unfused."""

import pytest
import torch
from torch import nn

from tests.fusion.parity import assert_parity, with_inputs

ENCODER = {"d_model": 16, "nhead": 4, "dim_feedforward": 24}


def padding(batch, length):
    """A padding mask: True for the last keys of each example, which attention ignores."""
    return torch.arange(length) >= torch.arange(length, length - batch, -1)[:, None]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_encoder_layers(norm_first, batch_first, bias):
    layer = nn.TransformerEncoderLayer(
        **ENCODER, norm_first=norm_first, batch_first=batch_first, bias=bias
    )
    assert_parity(
        layer,
        with_inputs(torch.randn(3, 5, 16)),
        fused_classes=["TransformerEncoderLayer", "Dropout"],
    )


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_decoder_layers(norm_first, batch_first):
    layer = nn.TransformerDecoderLayer(**ENCODER, norm_first=norm_first, batch_first=batch_first)
    memory = torch.randn(*((3, 7) if batch_first else (7, 3)), 16)
    target = torch.randn(*((3, 5) if batch_first else (5, 3)), 16)
    assert_parity(layer, with_inputs(target, memory), fused_classes=["TransformerDecoderLayer"])
