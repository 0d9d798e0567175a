"""Elementwise dropout, with a bias, an activation and a residual."""

import functools

import torch

from fused_dropout.functional import _unfused
from fused_dropout.functional._arguments import (
    ACTIVATIONS,
    MODES,
    check_tensor,
    normalized_dims,
    probability,
    probability_arguments,
)
from fused_dropout.functional._call import Operator, call
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._shard_layout import is_empty, shard_layout
from fused_dropout.functional._transforms import bias_act_dropout as bias_act_dropout_in_gradient

__all__ = [
    "ACTIVATIONS",
    "MODES",
    "bias_act_dropout",
    "bias_dropout_add",
    "dropout",
    "dropout_mask",
]

BIAS_ACT_DROPOUT = Operator(
    "bias_act_dropout",
    _unfused.bias_act_dropout,
    in_gradient=bias_act_dropout_in_gradient,
    same={"residual": 2},
    bias_dim=5,
)
DROPOUT_ = Operator("dropout_", _unfused.dropout_)


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

    Equivalent PyTorch code, where ``kept`` is the mask of `dropout_mask` and ``q`` the keep
    probability, ``round((1 - p) * 65536) / 65536``::

        torch.where(kept, x / q, 0)         # mode="inverted": torch.nn.functional.dropout
        torch.where(kept, x, 0)             # mode="classic"; x * q when not training
        torch.where(kept, a * x + b, c)     # mode="alpha": torch.nn.functional.alpha_dropout

    Unlike in torch, a NaN or an infinity is dropped too if the mask drops its element.

    On a device without kernels, torch's own function runs with its own mask, unless ``rng_state``,
    ``generator`` or ``shard`` asks for a mask of this package. The first call warns.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested
            tensor, whose mask is that of its values.
        p: probability to drop an element, in steps of 2^-16; a 0-d float64 CPU tensor can take new
            values under ``torch.compile`` without a new graph.
        training: if False, inverted and alpha mode return ``x`` itself.
        inplace: write the result into ``x``.
        shared_dims: dimensions along which all elements are kept or dropped together.
        noise_shape: the same as in Keras: the shape of the mask, with 1 along shared dimensions and
            None (or the size) along the others.
        mode: "inverted", "classic" or "alpha".
        generator: a ``torch.Generator`` to draw from; not allowed under ``torch.compile``.
        rng_state: replays the call that used this state (`fused_dropout.new_rng_state`).
        shard: a `fused_dropout.Shard` if ``x`` is a part of a larger tensor and gets the same part
            of that tensor's mask; ``noise_shape`` is then that of the full tensor. All parts need
            the same ``rng_state``, or generators in the same state.

    Returns:
        Tensor: with the shape, dtype and (if ``x`` is dense) strides of ``x``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given. Nothing has been computed, and no random number drawn.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 2014; alpha: Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """
    p = probability(p)
    if mode not in MODES:
        raise ValueError(f"dropout: mode is {mode!r}, but expected one of {', '.join(MODES)}")
    if not training and mode != "classic":
        return x
    p_number, p_tensor, draws = probability_arguments(p, training)
    if p_number == 0 or is_empty("dropout", x, shard):
        return x
    if inplace and x.is_nested:
        call_values = functools.partial(
            dropout, p=p, training=training, mode=mode, generator=generator, rng_state=rng_state
        )
        return on_values(
            "dropout",
            call_values,
            x,
            inplace=True,
            shared_dims=shared_dims,
            noise_shape=noise_shape,
            shard=shard,
        )
    if inplace:
        options = (p_number, p_tensor, mode, training)
        operator, tensors = DROPOUT_, (x,)
    else:
        options = (p_number, p_tensor, "identity", None, None, -1, mode, training)
        operator, tensors = BIAS_ACT_DROPOUT, (x, None, None)
    y = call(
        operator,
        "dropout",
        tensors,
        options,
        draws,
        p_tensor,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )
    return x if inplace else y


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

    Backward is one pass as well and includes the bias gradient, which accumulates in fp32 in a
    fixed order and has the same bits on every run. No mask is stored.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested
            tensor, whose mask is that of its values.
        bias: shape (n,), where n is the size of ``x`` along ``bias_dim``; in the dtype of ``x`` or
            float32. Or None.
        p: probability to drop an element, in steps of 2^-16 (see `dropout`).
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        training: if False, nothing is dropped (and classic mode multiplies by the keep
            probability).
        residual: tensor with the shape of ``x``, in its dtype or float32. Or None.
        bias_dim: the dimension of ``x`` that ``bias`` belongs to: -1 after linear layers, 1 after
            convolutions.
        negative_slope: parameter of leaky_relu; 0.01 if None.
        alpha: parameter of elu; 1 if None.
        shared_dims, noise_shape, mode, generator, rng_state, shard: see `dropout`.

    Returns:
        Tensor: with the shape of ``x``, and its dtype or ``torch.promote_types(x.dtype,
        residual.dtype)``. Arithmetic is fp32 (fp64 for float64) with one rounding at the end.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: as for `dropout`.
    """
    function = "bias_act_dropout"
    p, p_tensor, draws = probability_arguments(probability(p, function), training)
    return call(
        BIAS_ACT_DROPOUT,
        function,
        (x, bias, residual),
        (p, p_tensor, activation, negative_slope, alpha, bias_dim, mode, training),
        draws,
        p_tensor,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
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
    """``residual + dropout(x + bias)`` in one pass: the end of a transformer sub-layer.

    Equivalent PyTorch code, for ``bias_dim=-1``::

        residual + F.dropout(x + bias, p, training)

    Arguments, result and errors are those of `bias_act_dropout` with the identity as activation;
    ``bias`` may be None.
    """
    function = "bias_dropout_add"
    p, p_tensor, draws = probability_arguments(probability(p, function), training)
    return call(
        BIAS_ACT_DROPOUT,
        function,
        (x, bias, residual),
        (p, p_tensor, "identity", None, None, bias_dim, mode, training),
        draws,
        p_tensor,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )


def dropout_mask(shape, p, rng_state, *, like=None, shared_dims=(), device=None, shard=None):
    """Returns the mask that a call with this state applies.

    Args:
        shape: of the tensor that the mask is for.
        p: probability to drop.
        rng_state: the call's state; or several states, of shape (..., 2).
        like: a tensor of that shape whose strides the mask follows; contiguous if None. The random
            number of an element depends on the order of the dimensions in memory.
        shared_dims: as in the call.
        device: device of the result; that of ``rng_state`` if None.
        shard: a `fused_dropout.Shard` if the tensor is a part of a larger one.

    Returns:
        Tensor: bool, of the given shape, True for elements that are kept. Several states have one
            mask each, along further dimensions before these.
    """
    p = float(probability(p, "dropout_mask"))
    check_tensor("dropout_mask", "rng_state", rng_state)
    if like is not None:
        check_tensor("dropout_mask", "like", like)
        if like.is_nested or like.layout != torch.strided:
            kind = "is nested" if like.is_nested else f"has layout {like.layout}"
            raise TypeError(
                f"dropout_mask: like {kind}, but expected a dense tensor (torch.strided)"
            )
    memory = (
        torch.empty(shape, device="meta") if like is None else torch.empty_like(like, device="meta")
    )
    if tuple(memory.shape) != tuple(shape):
        raise ValueError(
            f"dropout_mask: like has shape {tuple(memory.shape)}, but expected {tuple(shape)}"
        )
    shared_dims = normalized_dims("dropout_mask", shared_dims, memory.dim())
    layout = (None, 0)
    if shard is not None:
        layout = shard_layout("dropout_mask", memory if like is None else like, shard, shared_dims)
    return torch.ops.fused_dropout.dropout_mask(
        rng_state if device is None else rng_state.to(device),
        memory.shape,
        memory.stride(),
        p,
        shared_dims,
        *layout,
    )
