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
    """`h = residual + row_scale * layer_scale * branch`, normalised over the last dimension.

    The branch is `drop(activation(x + bias))`. `norm` is "layer_norm" or "rms_norm". Returns `y`,
    or with `prenorm` `(y, h)`. The dtype of `h` is that of `x` and `residual` promoted, that of `y`
    is `x.dtype` with `prenorm` and else that of `h`. With `prenorm` the rounded `h` is normalised,
    else nothing is rounded in between.
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
