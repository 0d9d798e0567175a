"""Functional interface: functions with the shapes and dtypes of their counterparts in torch."""

import torch

from fused_dropout.functional._arguments import ACTIVATIONS, MODES
from fused_dropout.functional.attention import scaled_dot_product_attention
from fused_dropout.functional.drop_block import drop_block, drop_block_rate
from fused_dropout.functional.embedding import embedding_dropout
from fused_dropout.functional.gated import bias_glu_dropout
from fused_dropout.functional.noise import concrete_dropout, gaussian_dropout, standout
from fused_dropout.functional.norm import dropout_add_layer_norm, dropout_add_rms_norm
from fused_dropout.functional.pointwise import (
    bias_act_dropout,
    bias_dropout_add,
    dropout,
    dropout_mask,
)

__all__ = [
    "ACTIVATIONS",
    "MODES",
    "bias_act_dropout",
    "bias_dropout_add",
    "bias_glu_dropout",
    "concrete_dropout",
    "drop_block",
    "drop_block_rate",
    "dropout",
    "dropout_add_layer_norm",
    "dropout_add_rms_norm",
    "dropout_mask",
    "embedding_dropout",
    "gaussian_dropout",
    "scaled_dot_product_attention",
    "standout",
]

# torch.fx records calls of these functions instead of tracing into them.
for _name in set(__all__) - {"ACTIVATIONS", "MODES", "dropout_mask"}:
    torch.fx.wrap(_name)
