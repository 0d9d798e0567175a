"""What every kernel must compute, in plain torch.

:mod:`~fused_dropout.reference.contract` is the random-number contract; the other files are what is
computed with it. Nothing here calls the compiled extension, so the two can be checked against each
other.

An `rng_state` is `[seed, offset]`: an int64 tensor of shape (2,), or two Python ints. The offset is
a non-negative multiple of 4. Wherever nothing is drawn `rng_state` may be `None`.
"""

from fused_dropout.reference.activations import ACTIVATIONS, activation
from fused_dropout.reference.contract import (
    ALPHA_PRIME,
    MODES,
    constants,
    draws,
    dropout_mask,
    keep_count,
    mask_index,
    mask_strides,
    memory_order,
    normal,
    philox4x32_10,
    scale,
    shard_index,
    shared_dims_from_noise_shape,
    uniform,
)
from fused_dropout.reference.drop_block import (
    drop_block,
    drop_block_keep_count,
    drop_block_mask,
    drop_block_rate,
)
from fused_dropout.reference.drop_connect import drop_connect_moments
from fused_dropout.reference.embedding import embedding_dropout
from fused_dropout.reference.gated import bias_glu_dropout
from fused_dropout.reference.noise import (
    concrete_dropout,
    gaussian_dropout,
    standout,
    standout_threshold,
)
from fused_dropout.reference.norm import dropout_add_norm
from fused_dropout.reference.pointwise import bias_act_dropout, dropout

__all__ = [
    "ACTIVATIONS",
    "ALPHA_PRIME",
    "MODES",
    "activation",
    "bias_act_dropout",
    "bias_glu_dropout",
    "concrete_dropout",
    "constants",
    "draws",
    "drop_block",
    "drop_block_keep_count",
    "drop_block_mask",
    "drop_block_rate",
    "drop_connect_moments",
    "dropout",
    "dropout_add_norm",
    "dropout_mask",
    "embedding_dropout",
    "gaussian_dropout",
    "keep_count",
    "mask_index",
    "mask_strides",
    "memory_order",
    "normal",
    "philox4x32_10",
    "scale",
    "shard_index",
    "shared_dims_from_noise_shape",
    "standout",
    "standout_threshold",
    "uniform",
]
