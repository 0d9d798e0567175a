"""Dropout of words and weights."""

import torch

from fused_dropout.reference.contract import constants, dropout_mask, keep_count
from fused_dropout.reference.operations import drop, masks


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


def drop_connect_moments(x, weight, bias, p, mode="inverted"):
    """Mean and variance over all masks of `dropout(weight) @ x + bias`, for each example.

    The terms of the sum are independent: each has the mean of its factor of 0 or `a` and, as the
    variance, `q * (1 - q) * (a * weight * x) ** 2`.
    """
    q = keep_count(p) / 65536
    a, _, _ = constants(p, mode)
    terms = a * weight * x[..., None, :]
    mean = q * terms.sum(-1)
    return mean if bias is None else mean + bias, q * (1 - q) * terms.square().sum(-1)
