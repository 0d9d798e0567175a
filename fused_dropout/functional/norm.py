"""Dropout, residual and normalisation together: the end of a transformer's sub-layer."""

import torch

from fused_dropout._extension import _C
from fused_dropout.functional._arguments import (
    is_plain,
    probability,
    row_options,
    shared_dims_of,
    state_for,
)
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._place import mask_place


def dropout_add_layer_norm(
    x,
    residual,
    weight=None,
    norm_bias=None,
    *,
    bias=None,
    p=0.5,
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
    generator=None,
    rng_state=None,
    shard=None,
):
    """``layer_norm(residual + dropout(activation(x + bias)))`` in one pass over memory.

    Equivalent PyTorch code, for ``x`` of shape (..., n)::

        branch = F.dropout(act(x + bias), p, training)
        h = residual + row_scale[..., None] * (layer_scale * branch)
        y = F.layer_norm(h, (n,), weight, norm_bias, eps)
        return (y.to(x.dtype), h) if prenorm else y

    Each row is read once; its statistics are computed in two passes over what was read, in fp32
    (fp64 for float64), of ``h`` as it is returned, or else before any rounding. Backward is one
    pass as well, the gradients of the vectors included: they accumulate in fp32 in a fixed order
    and have the same bits on every run. Kept for it are ``h`` if it is returned and else ``x`` and
    ``residual``, two numbers a row and 16 bytes; an activation or a layer scale keeps ``x`` too.

    Args:
        x: the branch, shape (..., n); float32, float64, float16 or bfloat16. Or a nested tensor,
            whose mask is that of its values.
        residual: of ``x``'s shape, in ``x``'s dtype or float32. Or None.
        weight, norm_bias: of the normalisation, shape (n,). Or None.
        bias: of the branch, shape (n,). Or None.
        p: probability to drop an element of the branch, in steps of 2^-16.
        eps: added to the variance.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        prenorm: return ``h`` too, which the next residual connection starts from.
        training: without it nothing is dropped (and classic mode multiplies by the probability to
            keep).
        row_scale: a factor for each row of the branch, shape ``x.shape[:-1]``, such as the mask of
            stochastic depth; nothing is drawn for it. A gradient by it takes the slower way of
            plain torch operators.
        layer_scale: a factor for each column of the branch, shape (n,) (Touvron et al., "Going
            deeper with image transformers", ICCV 2021).
        negative_slope: of leaky_relu; 0.01 if None.
        alpha: of elu; 1 if None.
        shared_dims, noise_shape, mode, generator, rng_state: see
            :func:`fused_dropout.functional.dropout`.
        shard: see there; a row has to be whole.

    Returns:
        Tensor, or with ``prenorm`` two: ``y`` and ``h``, of ``x``'s shape. ``h`` has
        ``torch.promote_types(x.dtype, residual.dtype)``: a float32 residual stream stays float32.
        ``y`` has ``x``'s dtype with ``prenorm``, where it goes into the next branch, and else
        ``h``'s, as it is the stream itself.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was.
            Nothing is computed then, and no random number is drawn.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """
    return _apply(
        "dropout_add_layer_norm",
        "layer_norm",
        (x, residual, bias, row_scale, layer_scale, weight, norm_bias),
        eps,
        prenorm,
        p,
        activation,
        training,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        generator,
        rng_state,
        shard,
    )


def dropout_add_rms_norm(
    x,
    residual,
    weight=None,
    *,
    bias=None,
    p=0.5,
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
    generator=None,
    rng_state=None,
    shard=None,
):
    """``rms_norm(residual + dropout(activation(x + bias)))`` in one pass over memory.

    Equivalent PyTorch code, for ``x`` of shape (..., n)::

        branch = F.dropout(act(x + bias), p, training)
        h = residual + row_scale[..., None] * (layer_scale * branch)
        y = F.rms_norm(h, (n,), weight, eps)
        return (y.to(x.dtype), h) if prenorm else y

    Arguments, result and errors are those of :func:`dropout_add_layer_norm`, without a
    ``norm_bias``.

    Source: Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019.
    """
    return _apply(
        "dropout_add_rms_norm",
        "rms_norm",
        (x, residual, bias, row_scale, layer_scale, weight, None),
        eps,
        prenorm,
        p,
        activation,
        training,
        negative_slope,
        alpha,
        shared_dims,
        noise_shape,
        mode,
        generator,
        rng_state,
        shard,
    )


def _apply(
    function,
    norm,
    tensors,
    eps,
    prenorm,
    p,
    activation,
    training,
    negative_slope,
    alpha,
    shared_dims,
    noise_shape,
    mode,
    generator,
    rng_state,
    shard,
):
    """``tensors``: in the order of the operator's arguments."""
    x = tensors[0]
    p = probability(p, function)
    if getattr(x, "is_nested", False):
        _, residual, bias, row_scale, *vectors = tensors

        def call(values, residual, row_scale, shared_dims=(), noise_shape=None):
            return _apply(
                function,
                norm,
                (values, residual, bias, row_scale, *vectors),
                eps,
                prenorm,
                p,
                activation,
                training,
                negative_slope,
                alpha,
                shared_dims,
                noise_shape,
                mode,
                generator,
                rng_state,
                shard,
            )

        return on_values(
            function,
            call,
            x,
            same={"residual": residual},
            rows={"row_scale": row_scale},
            last=1,
            shared_dims=shared_dims,
            noise_shape=noise_shape,
            shard=shard,
        )
    shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, shard=shard)
    settings = (norm, eps, prenorm)
    options = (negative_slope, alpha, shared_dims, mode)
    if shard is None and is_plain(*tensors):
        y, h = _C.dropout_add_norm(
            function,
            *tensors,
            *settings,
            p,
            activation,
            training,
            *options,
            generator,
            rng_state,
        )
        return (y, h) if prenorm else y
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check_dropout_add_norm(function, *tensors, *settings, p, activation, *options, rng_state)
    place = mask_place(function, x, shard, shared_dims)
    if shard is not None:
        _check_rows_are_whole(function, x, shard)
    y, h, _ = torch.ops.fused_dropout.dropout_add_norm(
        *tensors,
        state_for(function, x, p, training, generator, rng_state, shard),
        *settings,
        *row_options(p, activation, training, *options, place),
    )
    return (y, h) if prenorm else y


def _check_rows_are_whole(function, x, shard):
    if x.dim() > 0 and x.shape[-1] != shard.shape[-1]:
        raise ValueError(
            f"{function}: shard has {shard.shape[-1]} elements along dimension -1, but x has "
            f"{x.shape[-1]}: what is normalised has to be whole"
        )
