"""Bias, activation, dropout and residual."""

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
    """Computes `residual + drop(activation(x + bias))`. Differentiable in all three tensors.

    In training, `drop(v)` is `a * v + c` where an element is kept and `d` where it is dropped; see
    `constants`. In evaluation it is `v`, or `v * keep_count(p) / 65536` in classic mode. If
    `keep_count(p)` is 0, classic evaluation gives zero for every `v`, NaN included.

    `x` and `residual` have the same shape. `bias` (or None) has the length of dimension `bias_dim`.
    The branch is computed in the dtype of `x`, at least float32. The sum is computed in the
    promoted dtype of the branch and the residual. The result is rounded once, to `x.dtype` or
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
    """Computes `drop(activation(x + bias))` in the dtype of `x`, at least float32."""
    if noise_shape is not None:
        if shared_dims:
            raise ValueError(
                f"shared_dims is {shared_dims} and noise_shape is {noise_shape}, but only one of "
                "them can be given"
            )
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
    if needs_mask(p, training, mode):
        keep = dropout_mask(
            x.shape, p, rng_state, like=x, shared_dims=shared_dims, mask_offset=mask_offset
        )
        # Zeros before the activation make the gradient of a dropped NaN or Inf 0 instead of
        # 0 * NaN. Every activation has a finite derivative at 0.
        v = torch.where(keep, v, 0.0)
    return apply_mask(_activation(activation, v, negative_slope, alpha), keep, p, training, mode)


def needs_mask(p, training, mode):
    """Whether elements may be dropped."""
    count = keep_count(p)
    return count < 65536 if training else mode == "classic" and count == 0


def apply_mask(v, keep, p, training, mode):
    """Scales and drops the values `v`. `keep` is None if no element is dropped."""
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
    """Computes `bias_act_dropout` without bias, activation and residual."""
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
