"""Dropout with what precedes and follows it: activations, residuals, gated units, norms."""

import torch

from fused_dropout.reference.activations import activation as _activation
from fused_dropout.reference.contract import (
    constants,
    dimension,
    dropout_mask,
    keep_count,
    shared_dims_from_noise_shape,
)

__all__ = ["bias_act_dropout", "dropout"]


def bias_act_dropout(
    x,
    bias,
    p,
    activation,
    rng_state,
    *,
    training=True,
    residual=None,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """`residual + drop(activation(x + bias))`, differentiable in `x`, `bias` and `residual`.

    In training `drop(v)` is `a * v + c` where kept and `d` where dropped, see `constants`. In
    evaluation it is `v`, in classic mode `v * keep_count(p) / 65536`. Where `keep_count(p)` is 0
    the classic evaluation too is zero, whatever `v`.

    `x` and `residual` have one shape; `bias` (or None) is as long as dimension `bias_dim`. The
    branch is computed in the dtype of `x` and at least float32, the sum in no less than that and
    the dtype of the residual. One rounding makes it `x.dtype`, or
    `torch.promote_types(x.dtype, residual.dtype)`.
    """
    v = branch(
        x,
        bias,
        p,
        activation,
        rng_state,
        training,
        bias_dim,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        mask_offset,
    )
    if residual is None:
        return v.to(x.dtype)
    v = residual.to(torch.promote_types(v.dtype, residual.dtype)) + v
    return v.to(torch.promote_types(x.dtype, residual.dtype))


def branch(
    x,
    bias,
    p,
    activation,
    rng_state,
    training,
    bias_dim,
    negative_slope,
    alpha,
    shared_dims,
    noise_shape,
    mode,
    mask_offset,
):
    """`drop(activation(x + bias))` in the dtype of `x` and at least float32."""
    if noise_shape is not None:
        if shared_dims:
            raise ValueError("shared_dims and noise_shape cannot both be given")
        shared_dims = shared_dims_from_noise_shape(x.shape, noise_shape)
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        dim = dimension(bias_dim, x.dim())
        if bias.shape != (x.shape[dim],):
            raise ValueError(
                f"bias has shape {tuple(bias.shape)}, but x has {x.shape[dim]} elements along "
                f"dimension {bias_dim}"
            )
        v = v + bias.to(v.dtype).view(-1, *[1] * (x.dim() - 1 - dim))
    keep = None
    if masks(p, training, mode):
        keep = dropout_mask(
            x.shape, p, rng_state, like=x, shared_dims=shared_dims, mask_offset=mask_offset
        )
        # Selected before the activation too: the gradient of a dropped NaN or Inf is then 0 and
        # not 0 * NaN. Every activation has a finite derivative at 0.
        v = torch.where(keep, v, 0.0)
    return drop(_activation(activation, v, negative_slope, alpha), keep, p, training, mode)


def masks(p, training, mode):
    """Whether anything is dropped."""
    count = keep_count(p)
    return count < 65536 if training else mode == "classic" and count == 0


def drop(v, keep, p, training, mode):
    """What becomes of a value; `keep` is None where nothing is dropped."""
    a, c, d = constants(p, mode)
    if keep is None:
        return v * (keep_count(p) / 65536) if mode == "classic" and not training else v
    v = a * v
    if mode == "alpha":  # adding a zero would turn a -0.0 into 0.0
        v = v + c
    return torch.where(keep, v, d)


def dropout(
    x,
    p,
    rng_state,
    *,
    training=True,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    mask_offset=0,
):
    """Dropout alone: `bias_act_dropout` without bias, activation and residual."""
    return bias_act_dropout(
        x,
        None,
        p,
        "identity",
        rng_state,
        training=training,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        mask_offset=mask_offset,
    )
