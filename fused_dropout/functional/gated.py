"""Gated linear units with dropout."""

from fused_dropout.functional import _unfused
from fused_dropout.functional._arguments import probability, probability_arguments
from fused_dropout.functional._call import Operator, call

__all__ = ["bias_glu_dropout"]


def _result_sizes(x):
    return (*x.shape[:-1], x.shape[-1] // 2)


BIAS_GLU_DROPOUT = Operator(
    "bias_glu_dropout", _unfused.bias_glu_dropout, last=1, sizes_of=_result_sizes
)


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
    ``F.glu(x)`` is "sigmoid" with ``gate_first=False``. Backward is one pass as
    well and includes the bias gradient, which accumulates in fp32 in a fixed order and has the same
    bits on every run. It stores ``x``, the bias and 16 bytes.

    Args:
        x: shape (..., 2 * n); float32, float64, float16 or bfloat16. Or a nested tensor, whose
            mask is that of its values.
        bias: shape (2 * n,), in the dtype of ``x`` or float32. Or None.
        p: probability to drop an element of the result, in steps of 2^-16.
        activation: one of ``fused_dropout.functional.ACTIVATIONS``.
        training: if False, nothing is dropped (and classic mode multiplies by the keep
            probability).
        gate_first: apply the activation to the first half, or to the second.
        negative_slope: parameter of leaky_relu; 0.01 if None.
        alpha: parameter of elu; 1 if None.
        shared_dims, noise_shape: see `fused_dropout.functional.dropout`; they refer to
            the result.
        mode, generator, rng_state: see `fused_dropout.functional.dropout`.
        shard: see there; it refers to the result, with ``n`` elements along the last dimension.

    Returns:
        Tensor: shape (..., n), in the dtype of ``x``. Arithmetic is fp32 (fp64 for float64) with
        one rounding at the end. Its mask is that of
        ``dropout_mask(y.shape, p, rng_state, like=y)``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given, for example an odd last dimension. Nothing has been
            computed, and no random number drawn.

    Source: Dauphin et al., "Language modeling with gated convolutional networks", ICML 2017;
    Shazeer, "GLU variants improve transformer", 2020.
    """
    function = "bias_glu_dropout"
    p, p_tensor, draws = probability_arguments(probability(p, function), training)
    return call(
        BIAS_GLU_DROPOUT,
        function,
        (x, bias),
        (gate_first, p, p_tensor, activation, negative_slope, alpha, mode, training),
        draws,
        p_tensor,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )
