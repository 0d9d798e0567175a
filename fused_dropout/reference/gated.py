"""Dropout of gated units."""

import torch

from fused_dropout.reference.activations import activation as _activation
from fused_dropout.reference.contract import dropout_mask
from fused_dropout.reference.pointwise import apply_mask, needs_mask

__all__ = ["bias_glu_dropout"]


def bias_glu_dropout(
    x,
    bias,
    p,
    activation,
    rng_state,
    *,
    training=True,
    gate_first=True,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    mode="inverted",
    mask_offset=0,
):
    """Computes `drop(activation(x1 + b1) * (x2 + b2))`, `x = [x1 | x2]` along the last dimension.

    With `gate_first=False` the activation is applied to the second half. The mask has the shape of
    the result, with the memory order of `x`.
    """
    if x.shape[-1] % 2:
        raise ValueError(
            f"bias_glu_dropout: x has {x.shape[-1]} elements along dimension -1, but expected an "
            "even number"
        )
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        v = v + bias.to(v.dtype)
    gate, value = v.chunk(2, -1) if gate_first else reversed(v.chunk(2, -1))
    keep = None
    if needs_mask(p, training, mode):
        like = torch.empty_like(x).chunk(2, -1)[0]
        keep = dropout_mask(
            like.shape, p, rng_state, like=like, shared_dims=shared_dims, mask_offset=mask_offset
        )
        gate, value = torch.where(keep, gate, 0.0), torch.where(keep, value, 0.0)
    v = _activation(activation, gate, negative_slope, alpha) * value
    return apply_mask(v, keep, p, training, mode).to(x.dtype)
