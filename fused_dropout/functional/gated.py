"""Gated linear units with dropout."""

import functools

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


def bias_glu_dropout(
    x,
    bias=None,
    p=0.5,
    activation="silu",
    training=True,
    *,
    gate_first=True,
    negative_slope=None,
    alpha=None,
    shared_dims=(),
    noise_shape=None,
    mode="inverted",
    generator=None,
    rng_state=None,
    shard=None,
):
    """``dropout(activation(x1 + b1) * (x2 + b2))`` in one pass, where ``x = [x1 | x2]``.

    Equivalent PyTorch code::

        gate, value = (x + bias).chunk(2, dim=-1)  # value, gate if not gate_first
        F.dropout(F.silu(gate) * value, p, training)

    ``activation="silu"`` is SwiGLU, "gelu" and "gelu_tanh" GEGLU, "relu" ReGLU, "sigmoid" GLU;
    ``F.glu(x)`` is "sigmoid" with ``gate_first=False``. Backward is one pass as well, the bias
    gradient included: it accumulates in fp32 in a fixed order and has the same bits on every run.
    Nothing is stored for it but ``x``, the bias and 16 bytes.

    Args:
        x: shape (..., 2 * n); float32, float64, float16 or bfloat16. Or a nested tensor, whose
            mask is that of its values.
        bias: shape (2 * n,), in ``x``'s dtype or float32. Or None.
        p: probability to drop an element of the result, in steps of 2^-16.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        training: without it nothing is dropped (and classic mode multiplies by the probability to
            keep).
        gate_first: whether the activation is applied to the first half or the second.
        negative_slope: of leaky_relu; 0.01 if None.
        alpha: of elu; 1 if None.
        shared_dims, noise_shape: see :func:`fused_dropout.functional.dropout`; they speak of the
            result.
        mode, generator, rng_state: see :func:`fused_dropout.functional.dropout`.
        shard: see there; it speaks of the result, of ``n`` elements along the last dimension.

    Returns:
        Tensor: shape (..., n), in ``x``'s dtype. Arithmetic is fp32 (fp64 for float64) with one
        rounding at the end. Its mask is that of
        ``dropout_mask(y.shape, p, rng_state, like=y)``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was, an
            odd last dimension among them. Nothing is computed then, and no random number is drawn.

    Source: Dauphin et al., "Language modeling with gated convolutional networks", ICML 2017;
    Shazeer, "GLU variants improve transformer", 2020.
    """
    function = "bias_glu_dropout"
    p = probability(p, function)
    if getattr(x, "is_nested", False):
        call = functools.partial(
            bias_glu_dropout,
            bias=bias,
            p=p,
            activation=activation,
            training=training,
            gate_first=gate_first,
            negative_slope=negative_slope,
            alpha=alpha,
            mode=mode,
            generator=generator,
            rng_state=rng_state,
        )
        sharing = {"shared_dims": shared_dims, "noise_shape": noise_shape}
        return on_values(function, call, x, last=1, **sharing, shard=shard)
    if noise_shape is not None:
        shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, _sizes(x), shard)
    options = (negative_slope, alpha, shared_dims, mode)
    if shard is None and is_plain(x, bias):
        return _C.bias_glu_dropout(
            function, x, bias, gate_first, p, activation, training, *options, generator, rng_state
        )
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check_bias_glu_dropout(function, x, bias, p, activation, *options, rng_state)
    place = mask_place(function, x, shard, shared_dims, shard and _sizes(x))
    return torch.ops.fused_dropout.bias_glu_dropout(
        x,
        bias,
        state_for(function, x, p, training, generator, rng_state, shard),
        gate_first,
        *row_options(p, activation, training, *options, place),
    )


def _sizes(x):
    """Of the result."""
    return (*x.shape[:-1], x.shape[-1] // 2)
