"""Dropout, residual and normalisation in one pass: the end of a transformer sub-layer."""

from fused_dropout.functional import _unfused
from fused_dropout.functional._arguments import probability, probability_arguments
from fused_dropout.functional._call import Operator, call

__all__ = ["dropout_add_layer_norm", "dropout_add_rms_norm"]

DROPOUT_ADD_NORM = Operator(
    "dropout_add_norm",
    _unfused.dropout_add_norm,
    same={"residual": 1},
    rows={"row_scale": 3},
    last=1,
    full_rows=True,
)


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

    Each row is read from memory once. Its statistics are computed in fp32 (fp64 for float64) in two
    passes over the row: of ``h`` as it is returned, or of ``h`` before rounding if it is not.
    Backward is one pass as well and includes the gradients of the vectors, which accumulate in fp32
    in a fixed order and have the same bits on every run. It stores ``h`` if ``h`` is returned, and
    else ``x`` and ``residual``; two numbers for each row; and 16 bytes. With an activation or a
    layer scale it stores ``x`` in both cases.

    Args:
        x: the branch, shape (..., n); float32, float64, float16 or bfloat16. Or a nested tensor,
            whose mask is that of its values.
        residual: tensor with the shape of ``x``, in its dtype or float32. Or None.
        weight, norm_bias: scale and shift of the normalisation, shape (n,). Or None.
        bias: added to the branch, shape (n,). Or None.
        p: probability to drop an element of the branch, in steps of 2^-16.
        eps: added to the variance.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        prenorm: return ``h`` too, from which the next residual connection starts.
        training: if False, nothing is dropped (and classic mode multiplies by the keep
            probability).
        row_scale: a factor for each row of the branch, shape ``x.shape[:-1]``, such as the mask of
            stochastic depth; no random number is drawn for it. If it requires a gradient, the call
            runs as a composition of plain torch operators, which is slower.
        layer_scale: a factor for each column of the branch, shape (n,) (Touvron et al., "Going
            deeper with image transformers", ICCV 2021).
        negative_slope: parameter of leaky_relu; 0.01 if None.
        alpha: parameter of elu; 1 if None.
        shared_dims, noise_shape, mode, generator, rng_state: see
            `fused_dropout.functional.dropout`.
        shard: see there; a part needs full rows.

    Returns:
        Tensor: ``y``, with the shape of ``x``; with ``prenorm`` a pair ``y, h``. The dtype of ``h``
        is ``torch.promote_types(x.dtype, residual.dtype)``: a float32 residual stream stays
        float32. With ``prenorm``, ``y`` is the input of the next branch and has the dtype of ``x``.
        Without, ``y`` is the residual stream itself and has the dtype of ``h``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given. Nothing has been computed, and no random number drawn.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """
    return _apply(
        "dropout_add_layer_norm",
        (x, residual, bias, row_scale, layer_scale, weight, norm_bias),
        ("layer_norm", eps, prenorm),
        p,
        (activation, negative_slope, alpha, mode, training),
        (shared_dims, noise_shape, generator, rng_state, shard),
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

    Arguments, result and errors are those of `dropout_add_layer_norm`, without a
    ``norm_bias``.

    Source: Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019.
    """
    return _apply(
        "dropout_add_rms_norm",
        (x, residual, bias, row_scale, layer_scale, weight, None),
        ("rms_norm", eps, prenorm),
        p,
        (activation, negative_slope, alpha, mode, training),
        (shared_dims, noise_shape, generator, rng_state, shard),
    )


def _apply(function, tensors, settings, p, options, sharing_and_state):
    """The arguments of the operator in the order of its schema, without ``p``."""
    p, p_tensor, draws = probability_arguments(probability(p, function), options[-1])
    prenorm = settings[-1]
    return call(
        DROPOUT_ADD_NORM,
        function,
        tensors,
        (*settings, p, p_tensor, *options),
        draws,
        p_tensor,
        *sharing_and_state,
        results=slice(2) if prenorm else 0,  # y and h, or y
    )
