"""Elementwise: dropout, with a bias, an activation and a residual."""

import functools

import torch

from fused_dropout._extension import _C
from fused_dropout.functional._arguments import (
    MODES,
    is_plain,
    is_zero,
    normalized_dims,
    probability,
    probability_arguments,
    shared_dims_of,
    state_for,
)
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._place import is_empty, mask_place


def dropout(
    x,
    p=0.5,
    training=True,
    inplace=False,
    *,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
    shard=None,
):
    """Dropout, without storing a mask.

    Equivalent PyTorch code, with ``kept`` the mask of :func:`dropout_mask` and ``q`` the
    probability to keep, ``round((1 - p) * 65536) / 65536``::

        torch.where(kept, x / q, 0)         # mode="inverted": torch.nn.functional.dropout
        torch.where(kept, x, 0)             # mode="classic"; x * q when not training
        torch.where(kept, a * x + b, c)     # mode="alpha": torch.nn.functional.alpha_dropout

    Unlike in torch, a NaN or an infinity at a dropped place is dropped too.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested one,
            whose mask is that of its values.
        p: probability to drop an element, in steps of 2^-16; a 0-d float64 CPU tensor can take new
            values under ``torch.compile`` without a new graph.
        training: without it, inverted and alpha mode return ``x`` itself.
        inplace: write the result into ``x``.
        shared_dims: dimensions along which elements share one decision.
        noise_shape: the same in Keras's spelling: the shape of the mask, with 1 where shared and
            None (or the size) where not.
        mode: "inverted", "classic" or "alpha".
        generator: a ``torch.Generator`` to draw from; not under ``torch.compile``.
        rng_state: replays the call that used this state (:func:`fused_dropout.new_rng_state`).
        shard: a :class:`fused_dropout.Shard`, if ``x`` is a part of a larger tensor and shall get
            that part of the whole's mask; ``noise_shape`` is then that of the whole. All parts
            need the same ``rng_state``, or generators in the same state.

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was.
            Nothing is computed then, and no random number is drawn.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 2014; alpha: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """
    p = probability(p)
    if mode not in MODES:
        raise ValueError(f"dropout: mode is {mode!r}, but expected one of {', '.join(MODES)}")
    if not training and mode != "classic":
        return x
    if is_zero(p):
        return x
    if getattr(x, "is_nested", False):
        return on_values(
            "dropout",
            functools.partial(
                dropout, p=p, training=training, mode=mode, generator=generator, rng_state=rng_state
            ),
            x,
            inplace=inplace,
            shared_dims=shared_dims,
            noise_shape=noise_shape,
            shard=shard,
        )
    if is_empty("dropout", x, shard):
        return x
    if inplace:
        return _dropout_(
            x, p, training, shared_dims, noise_shape, mode, generator, rng_state, shard
        )
    return _apply(
        "dropout",
        x,
        None,
        None,
        p,
        "identity",
        training,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
        shard=shard,
    )


def bias_act_dropout(
    x,
    bias=None,
    p=0.5,
    activation="gelu",
    training=True,
    *,
    residual=None,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
    shard=None,
):
    """``residual + dropout(activation(x + bias))`` in one pass over memory.

    Equivalent PyTorch code, for ``bias_dim=-1``::

        residual + F.dropout(F.gelu(x + bias), p, training)

    Backward is one pass as well, the bias gradient included: it accumulates in fp32 in a fixed
    order and has the same bits on every run. No mask is stored.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested one,
            whose mask is that of its values.
        bias: 1-D, as long as ``x`` along ``bias_dim``; in ``x``'s dtype or float32. Or None.
        p: probability to drop an element, in steps of 2^-16 (see :func:`dropout`).
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        training: without it nothing is dropped (and classic mode multiplies by the probability to
            keep).
        residual: of ``x``'s shape, in ``x``'s dtype or float32. Or None.
        bias_dim: the dimension of ``x`` that ``bias`` belongs to: -1 after linear layers, 1 after
            convolutions.
        negative_slope: of leaky_relu; 0.01 if None.
        alpha: of elu; 1 if None.
        shared_dims, noise_shape, mode, generator, rng_state, shard: see :func:`dropout`.

    Returns:
        Tensor: of ``x``'s shape; its dtype is ``x``'s, or ``torch.promote_types(x.dtype,
        residual.dtype)``. Arithmetic is fp32 (fp64 for float64) with one rounding at the end.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: as for :func:`dropout`.
    """
    apply = _apply_nested if getattr(x, "is_nested", False) else _apply
    return apply(
        "bias_act_dropout",
        x,
        bias,
        residual,
        probability(p, "bias_act_dropout"),
        activation,
        training,
        bias_dim=bias_dim,
        negative_slope=negative_slope,
        alpha=alpha,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
        shard=shard,
    )


def bias_dropout_add(
    x,
    bias,
    residual,
    p=0.5,
    training=True,
    *,
    bias_dim=-1,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
    shard=None,
):
    """``residual + dropout(x + bias)`` in one pass: the end of a transformer's sub-layer.

    Equivalent PyTorch code, for ``bias_dim=-1``::

        residual + F.dropout(x + bias, p, training)

    Arguments, result and errors are those of :func:`bias_act_dropout` with the identity as the
    activation; ``bias`` may be None.
    """
    apply = _apply_nested if getattr(x, "is_nested", False) else _apply
    return apply(
        "bias_dropout_add",
        x,
        bias,
        residual,
        probability(p, "bias_dropout_add"),
        "identity",
        training,
        bias_dim=bias_dim,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        mode=mode,
        generator=generator,
        rng_state=rng_state,
        shard=shard,
    )


def dropout_mask(shape, p, rng_state, *, like=None, shared_dims=(), device=None, shard=None):
    """The mask that a call with this state applies.

    Args:
        shape: of the tensor that the mask is for.
        p: probability to drop.
        rng_state: the call's state.
        like: a tensor of that shape whose strides the mask follows; contiguous if None. Which
            random number decides about an element depends on the order of the dimensions in memory.
        shared_dims: as in the call.
        device: of the result; that of ``rng_state`` if None.
        shard: a :class:`fused_dropout.Shard`, if the tensor is a part of a larger one.

    Returns:
        Tensor: bool, of the given shape, True where an element is kept.
    """
    p = float(probability(p, "dropout_mask"))
    if like is not None and (like.is_nested or like.layout != torch.strided):
        kind = "is nested" if like.is_nested else f"has layout {like.layout}"
        raise TypeError(f"dropout_mask: like {kind}, but expected a dense tensor (torch.strided)")
    memory = (
        torch.empty(shape, device="meta") if like is None else torch.empty_like(like, device="meta")
    )
    if tuple(memory.shape) != tuple(shape):
        raise ValueError(
            f"dropout_mask: like has shape {tuple(memory.shape)}, but expected {tuple(shape)}"
        )
    shared_dims = normalized_dims("dropout_mask", shared_dims, memory.dim())
    return torch.ops.fused_dropout.dropout_mask(
        rng_state if device is None else rng_state.to(device),
        memory.shape,
        memory.stride(),
        p,
        shared_dims,
        *mask_place("dropout_mask", memory if like is None else like, shard, shared_dims),
    )


def _apply(
    function,
    x,
    bias,
    residual,
    p,
    activation,
    training,
    *,
    bias_dim=-1,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
    shard=None,
):
    shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, shard=shard)
    if shard is None and is_plain(x, bias, residual):
        return _C.bias_act_dropout(
            function,
            x,
            bias,
            residual,
            p,
            activation,
            training,
            bias_dim,
            negative_slope,
            alpha,
            shared_dims,
            mode,
            generator,
            rng_state,
        )
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check(
            function,
            x,
            bias,
            residual,
            p,
            activation,
            bias_dim,
            negative_slope,
            alpha,
            shared_dims,
            mode,
            rng_state,
        )
    place = mask_place(function, x, shard, shared_dims)
    return torch.ops.fused_dropout.bias_act_dropout(
        x,
        bias,
        residual,
        state_for(function, x, p, training, generator, rng_state, shard),
        *probability_arguments(p),
        activation,
        negative_slope,
        alpha,
        bias_dim,
        mode,
        training,
        list(shared_dims),
        *place,
    )


def _apply_nested(
    function,
    x,
    bias,
    residual,
    p,
    activation,
    training,
    *,
    bias_dim=-1,
    shared_dims=(),
    noise_shape=None,
    shard=None,
    **options,
):
    return on_values(
        function,
        functools.partial(
            _apply, function, bias=bias, p=p, activation=activation, training=training, **options
        ),
        x,
        same={"residual": residual},
        bias_dim=None if bias is None else bias_dim,
        shared_dims=shared_dims,
        noise_shape=noise_shape,
        shard=shard,
    )


def _dropout_(x, p, training, shared_dims, noise_shape, mode, generator, rng_state, shard):
    shared_dims = shared_dims_of("dropout", x, shared_dims, noise_shape, shard=shard)
    if shard is None and is_plain(x):
        return _C.dropout_("dropout", x, p, training, shared_dims, mode, generator, rng_state)
    if not torch.compiler.is_compiling():
        _C.check_("dropout", x, p, training, shared_dims, mode, rng_state)
    place = mask_place("dropout", x, shard, shared_dims)
    torch.ops.fused_dropout.dropout_(
        x,
        state_for("dropout", x, p, training, generator, rng_state, shard),
        *probability_arguments(p),
        mode,
        training,
        list(shared_dims),
        *place,
    )
    return x
