"""Dropout of words and weights."""

import torch

from fused_dropout.reference.contract import dropout_mask
from fused_dropout.reference.pointwise import drop, masks

__all__ = ["embedding_dropout"]


def embedding_dropout(input, weight, p, rng_state, *, training=True, mode="inverted"):
    """`weight[input]` without the words that are dropped: one decision for each row of `weight`.

    The decision about word `i` is that about element `i` of a vector as long as the vocabulary.
    """
    v = weight[input].to(torch.promote_types(weight.dtype, torch.float32))
    keep = None
    if masks(p, training, mode):
        keep = dropout_mask((len(weight),), p, rng_state)[input][..., None]
        v = torch.where(keep, v, 0.0)
    return drop(v, keep, p, training, mode).to(weight.dtype)
