"""Dropout with what precedes and follows it: activations, residuals, gated units, norms."""

import torch
import torch.nn.functional as F

from fused_dropout.reference.contract import (
    constants,
    dimension,
    dropout_mask,
    keep_count,
    shared_dims_from_noise_shape,
)

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "squared_relu": lambda x: F.relu(x).square(),
}


def activation(name, x, negative_slope=None, alpha=None):
    """The activation `name` of `x`, elementwise, in the dtype of `x`.

    `negative_slope` (0.01 unless given) is for leaky_relu and `alpha` (1 unless given) for elu; the
    others take no notice of them.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {', '.join(ACTIVATIONS)}")
    if name == "leaky_relu" and negative_slope is not None:
        return F.leaky_relu(x, negative_slope)
    if name == "elu" and alpha is not None:
        return F.elu(x, alpha)
    return ACTIVATIONS[name](x)


_activation = activation  # bias_act_dropout has an argument of that name


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
    v = _branch(
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


def _branch(
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
    """`drop(activation(x1 + b1) * (x2 + b2))` with `x = [x1 | x2]` along the last dimension.

    With `gate_first=False` the activation is applied to the second half. The mask is that of the
    result, whose dimensions lie in memory in the order of those of `x`.
    """
    if x.shape[-1] % 2:
        raise ValueError(f"the last dimension of x has to be even, but is {x.shape[-1]}")
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if bias is not None:
        v = v + bias.to(v.dtype)
    gate, value = v.chunk(2, -1) if gate_first else reversed(v.chunk(2, -1))
    keep = None
    if masks(p, training, mode):
        like = torch.empty_like(x).chunk(2, -1)[0]
        keep = dropout_mask(
            like.shape, p, rng_state, like=like, shared_dims=shared_dims, mask_offset=mask_offset
        )
        gate, value = torch.where(keep, gate, 0.0), torch.where(keep, value, 0.0)
    v = _activation(activation, gate, negative_slope, alpha) * value
    return drop(v, keep, p, training, mode).to(x.dtype)


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
    h = _branch(
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
