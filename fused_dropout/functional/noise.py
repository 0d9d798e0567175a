"""Gaussian dropout, Concrete dropout and Standout: noise that is not one Bernoulli mask."""

import torch

from fused_dropout.functional import _unfused
from fused_dropout.functional._arguments import is_zero, probability, probability_arguments
from fused_dropout.functional._call import Operator, call
from fused_dropout.functional._shard_layout import is_empty

__all__ = ["concrete_dropout", "gaussian_dropout", "standout"]

GAUSSIAN_DROPOUT = Operator("gaussian_dropout", _unfused.gaussian_dropout)
CONCRETE_DROPOUT = Operator("concrete_dropout", _unfused.concrete_dropout)
STANDOUT = Operator("standout", _unfused.standout, same={"z": 1})


def gaussian_dropout(
    x,
    p=0.5,
    training=True,
    *,
    shared_dims=(),
    noise_shape=None,
    generator=None,
    rng_state=None,
    shard=None,
):
    """Multiplies by normal noise of mean 1 and standard deviation ``sqrt(p / (1 - p))``.

    Equivalent PyTorch code::

        x * (1 + (p / (1 - p)) ** 0.5 * torch.randn_like(x))

    Mean and variance are those of ``F.dropout(x, p)``, but no element is set to zero. No noise is
    stored: backward draws it again. Forward and backward are one pass over memory each.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested
            tensor, whose noise is that of its values.
        p: drop probability of the dropout that has the same variance; 0 <= p < 1, not in steps.
            A 0-d float64 CPU tensor can take new values under ``torch.compile`` without a new
            graph.
        training: if False, the result is ``x`` itself, as with ``p = 0``, and nothing is drawn.
        shared_dims, noise_shape, generator, rng_state, shard: see
            `fused_dropout.functional.dropout`.

    Returns:
        Tensor: with the shape, dtype and (if ``x`` is dense) strides of ``x``. The normal numbers
        are those of ``fused_dropout.reference.normal`` within 4 ULP of fp32 (fp64 for float64), on
        every device.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given, for example ``p = 1``. Nothing has been computed, and no
            random number drawn.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 2014, section 10.
    """
    function = "gaussian_dropout"
    p = probability(p, function)
    check_below_one(function, p)
    if not training or is_zero(p):
        return x
    if is_empty(function, x, shard):
        return x
    p, p_tensor, draws = probability_arguments(p, training)
    return call(
        GAUSSIAN_DROPOUT,
        function,
        (x,),
        (p, p_tensor),
        draws,
        p_tensor,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )


def check_below_one(function, p):
    if not isinstance(p, torch.Tensor) and p == 1:
        raise ValueError(
            f"{function}: p is 1, where the noise is infinite, but expected less than 1"
        )


def concrete_dropout(
    x,
    logit,
    temperature=0.1,
    training=True,
    *,
    shared_dims=(),
    noise_shape=None,
    generator=None,
    rng_state=None,
    shard=None,
):
    """Dropout whose probability is learned: its mask is between 0 and 1 and differentiable in it.

    Equivalent PyTorch code::

        u = torch.rand_like(x)
        dropped = torch.sigmoid((logit + torch.logit(u)) / temperature)
        x * (1 - dropped) / (1 - torch.sigmoid(logit))

    The logit of ``u`` is computed from the integer that ``u`` is made of, so it is finite and exact
    at both ends, while ``u`` in fp32 can be rounded to 1. Backward is one pass and includes the
    gradient of ``logit``, which accumulates in fp32 within chunks and in fp64 over chunks, in a
    fixed order: it has the same bits on every run and for any number of threads. No noise is
    stored.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested
            tensor, whose noise is that of its values.
        logit: tensor of one element, ``log(p / (1 - p))``, in any of these dtypes, on the device of
            ``x``.
        temperature: greater than 0; the closer to 0, the closer the mask is to zeros and ones.
        training: if False, the result is ``x`` itself, and nothing is drawn; see
            `fused_dropout.ConcreteDropout`.
        shared_dims, noise_shape, generator, rng_state, shard: see
            `fused_dropout.functional.dropout`.

    Returns:
        Tensor: with the shape, dtype and (if ``x`` is dense) strides of ``x``.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given. Nothing has been computed, and no random number drawn.

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017.
    """
    function = "concrete_dropout"
    if not isinstance(logit, torch.Tensor):
        raise TypeError(f"{function}: logit is {logit!r}, but expected a tensor of one element")
    if not training:
        return x
    if is_empty(function, x, shard):
        return x
    return call(
        CONCRETE_DROPOUT,
        function,
        (x, logit),
        (temperature,),
        True,
        None,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )


def standout(
    x,
    z,
    alpha=1.0,
    beta=0.0,
    training=True,
    *,
    shared_dims=(),
    noise_shape=None,
    generator=None,
    rng_state=None,
    shard=None,
):
    """Dropout whose probability depends on the pre-activation of each unit.

    Equivalent PyTorch code::

        q = torch.sigmoid(alpha * z + beta)  # the probability to keep
        torch.where(torch.rand_like(x) < q.detach(), x, 0) if training else x * q

    Units with a large pre-activation are likely to be kept, units with a small one to be dropped;
    with ``alpha = 0`` it is classic dropout with keep probability ``sigmoid(beta)``. Training does
    not divide by ``q``: evaluation multiplies by it. As in the paper, the sampled mask is a
    constant in training: only ``x`` has a gradient, and only where it was kept. In evaluation both
    have one. Backward stores ``z`` (and ``x`` in evaluation) and 16 bytes.

    Args:
        x: the activations; any shape and strides; float32, float64, float16 or bfloat16. Or a
            nested tensor, whose mask is that of its values.
        z: the pre-activations, with the shape of ``x``; they are converted to its dtype first. A
            unit whose ``z`` is NaN is kept.
        alpha, beta: scale and shift of ``z``. The larger ``beta``, the fewer units are dropped.
        training: whether to sample a mask.
        shared_dims, noise_shape: dimensions along which the random number is shared, see
            `fused_dropout.functional.dropout`; each unit keeps a probability of its own.
        generator, rng_state, shard: see there.

    Returns:
        Tensor: with the shape, dtype and (if ``x`` is dense) strides of ``x``. A unit is kept if
        its 16-bit draw is less than ``rint(65536 * q)``, computed in fp32 for every dtype: the mask
        has the same bits on every device and for every instruction set.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: the message names the argument, what was
            expected and what was given. Nothing has been computed, and no random number drawn.

    Source: Ba and Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013.
    """
    return call(
        STANDOUT,
        "standout",
        (x, z),
        (alpha, beta, training),
        bool(training) and not is_empty("standout", x, shard),
        None,
        shared_dims,
        noise_shape,
        generator,
        rng_state,
        shard,
    )
