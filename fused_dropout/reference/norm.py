"""Dropout, residual and normalisation."""

import torch

from fused_dropout.reference.pointwise import branch

__all__ = ["dropout_add_norm"]


def dropout_add_norm(
    x,
    residual,
    weight,
    norm_bias,
    p,
    rng_state,
    *,
    norm="layer_norm",
    bias=None,
    eps=1e-5,
    activation="identity",
    prenorm=False,
    training=True,
    row_scale=None,
    layer_scale=None,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """Normalises `h = residual + row_scale * layer_scale * branch` over the last dimension.

    The branch is `drop(activation(x + bias))`. `norm` is "layer_norm" or "rms_norm". Returns `y`,
    or `(y, h)` with `prenorm`. The dtype of `h` is the promoted dtype of `x` and `residual`. The
    dtype of `y` is `x.dtype` with `prenorm`, and that of `h` without. With `prenorm`, `h` is
    rounded to its dtype before it is normalised. Without, no intermediate result is rounded.
    """
    h = branch(
        x,
        bias,
        p,
        activation,
        rng_state,
        training,
        -1,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        mask_offset,
    )
    if layer_scale is not None:
        h = h * layer_scale.to(h.dtype)
    if row_scale is not None:
        h = h * row_scale.to(h.dtype)[..., None]
    h_dtype = x.dtype
    if residual is not None:
        h = residual.to(torch.promote_types(h.dtype, residual.dtype)) + h
        h_dtype = torch.promote_types(x.dtype, residual.dtype)
    if prenorm:
        h = h.to(h_dtype).to(h.dtype)
    centered = h - h.mean(-1, keepdim=True) if norm == "layer_norm" else h
    y = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    if weight is not None:
        y = y * weight.to(y.dtype)
    if norm_bias is not None:
        y = y + norm_bias.to(y.dtype)
    return (y.to(x.dtype), h.to(h_dtype)) if prenorm else y.to(h_dtype)
