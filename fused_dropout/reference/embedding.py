"""Dropout of words."""

import torch

from fused_dropout.reference.contract import dropout_mask
from fused_dropout.reference.pointwise import apply_mask, needs_mask

__all__ = ["embedding_dropout"]


def embedding_dropout(input, weight, p, rng_state, *, training=True, mode="inverted"):
    """Computes `weight[input]`, where each row of `weight` is kept or dropped.

    Word `i` is kept if element `i` of a vector of the length of the vocabulary is kept.
    """
    v = weight[input].to(torch.promote_types(weight.dtype, torch.float32))
    keep = None
    if needs_mask(p, training, mode):
        keep = dropout_mask((len(weight),), p, rng_state)[input][..., None]
        v = torch.where(keep, v, 0.0)
    return apply_mask(v, keep, p, training, mode).to(weight.dtype)
