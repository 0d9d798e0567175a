"""Noise that is not a mask of one probability: Gaussian and Concrete dropout, and Standout."""

import functools

import torch

from fused_dropout._extension import _C
from fused_dropout.functional._arguments import (
    is_plain,
    is_zero,
    probability,
    probability_arguments,
    shared_dims_of,
    state_for,
)
from fused_dropout.functional._nested import on_values
from fused_dropout.functional._place import is_empty, mask_place


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

    Mean and variance are those of ``F.dropout(x, p)``, but nothing is set to zero. No noise is
    stored: backward draws it again. Forward and backward are one pass over memory each.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested one,
            whose noise is that of its values.
        p: probability to drop of the dropout that has the same variance; 0 <= p < 1, not in steps.
            A 0-d float64 CPU tensor can take new values under ``torch.compile`` without a new
            graph.
        training: without it the result is ``x`` itself, as with ``p = 0``; nothing is drawn then.
        shared_dims, noise_shape, generator, rng_state, shard: see
            :func:`fused_dropout.functional.dropout`.

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides. The normal numbers are
        those of ``fused_dropout.reference.normal`` within 4 ULP of fp32 (fp64 for float64), on
        every device.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was, ``p``
            = 1 among them. Nothing is computed then, and no random number is drawn.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
    JMLR 2014, section 10.
    """
    function = "gaussian_dropout"
    p = probability(p, function)
    check_below_one(function, p)
    if not training or is_zero(p):
        return x
    if getattr(x, "is_nested", False):
        call = functools.partial(gaussian_dropout, p=p, generator=generator, rng_state=rng_state)
        sharing = {"shared_dims": shared_dims, "noise_shape": noise_shape}
        return on_values(function, call, x, **sharing, shard=shard)
    if is_empty(function, x, shard):
        return x
    shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, shard=shard)
    if shard is None and is_plain(x):
        return _C.gaussian_dropout(function, x, p, shared_dims, generator, rng_state)
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check_gaussian_dropout(function, x, p, shared_dims, rng_state)
    place = mask_place(function, x, shard, shared_dims)
    return torch.ops.fused_dropout.gaussian_dropout(
        x,
        state_for(function, x, p, training, generator, rng_state),
        *probability_arguments(p),
        list(shared_dims),
        *place,
    )


def check_below_one(function, p):
    if not isinstance(p, torch.Tensor) and p == 1:
        raise ValueError(
            f"{function}: p is 1, but expected less than 1, where the noise is infinite"
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
    """Dropout whose probability is learned: a mask between 0 and 1 that has a gradient by it.

    Equivalent PyTorch code::

        u = torch.rand_like(x)
        dropped = torch.sigmoid((logit + torch.logit(u)) / temperature)
        x * (1 - dropped) / (1 - torch.sigmoid(logit))

    The logit of ``u`` is computed from the integer that ``u`` is made of, so that it is finite and
    exact at both ends, where ``u`` in fp32 can be rounded to 1. Backward is one pass, the gradient
    by ``logit`` included: it accumulates in fp32 within blocks and in fp64 over them, in a fixed
    order, and has the same bits on every run and for any number of threads. No noise is stored.

    Args:
        x: tensor of any shape and strides; float32, float64, float16 or bfloat16. Or a nested one,
            whose noise is that of its values.
        logit: tensor of one element, ``log(p / (1 - p))``, in any of these dtypes and on ``x``'s
            device.
        temperature: how far the mask is from one of zeros and ones; greater than 0.
        training: without it the result is ``x`` itself, and nothing is drawn; see
            :class:`fused_dropout.ConcreteDropout`.
        shared_dims, noise_shape, generator, rng_state, shard: see
            :func:`fused_dropout.functional.dropout`.

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was.
            Nothing is computed then, and no random number is drawn.

    Source: Gal, Hron and Kendall, "Concrete dropout", NeurIPS 2017.
    """
    function = "concrete_dropout"
    if not isinstance(logit, torch.Tensor):
        raise TypeError(f"{function}: logit is {logit!r}, but expected a tensor of one element")
    if not training:
        return x
    if getattr(x, "is_nested", False):
        call = functools.partial(
            concrete_dropout,
            logit=logit,
            temperature=temperature,
            generator=generator,
            rng_state=rng_state,
        )
        sharing = {"shared_dims": shared_dims, "noise_shape": noise_shape}
        return on_values(function, call, x, **sharing, shard=shard)
    if is_empty(function, x, shard):
        return x
    shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, shard=shard)
    if shard is None and is_plain(x, logit):
        return _C.concrete_dropout(
            function, x, logit, temperature, shared_dims, generator, rng_state
        )
    if not torch.compiler.is_compiling():
        _C.check_concrete_dropout(function, x, logit, temperature, shared_dims, rng_state)
    place = mask_place(function, x, shard, shared_dims)
    return torch.ops.fused_dropout.concrete_dropout(
        x,
        logit,
        state_for(function, x, 0.5, training, generator, rng_state),
        temperature,
        list(shared_dims),
        *place,
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
    """Dropout of each unit with a probability that its own pre-activation decides.

    Equivalent PyTorch code::

        q = torch.sigmoid(alpha * z + beta)  # the probability to keep
        torch.where(torch.rand_like(x) < q.detach(), x, 0) if training else x * q

    Large pre-activations are kept, small ones dropped; with ``alpha = 0`` it is classic dropout
    with a probability of ``sigmoid(beta)`` to keep. Nothing is divided by ``q`` in training:
    evaluation multiplies by it. As in the paper, in training the sampled mask counts as a constant,
    so that only ``x`` has a gradient, and that only where it was kept; in evaluation both have.
    Nothing is stored for backward but ``z`` (and ``x`` in evaluation) and 16 bytes.

    Args:
        x: the activations; any shape and strides; float32, float64, float16 or bfloat16. Or a
            nested tensor, whose mask is that of its values.
        z: the pre-activations, of ``x``'s shape; another dtype is converted to ``x``'s first. A
            unit whose ``z`` is NaN is kept.
        alpha, beta: scale and shift of ``z``: more ``beta``, fewer units dropped.
        training: whether to sample a mask.
        shared_dims, noise_shape: dimensions along which the random number is shared, see
            :func:`fused_dropout.functional.dropout`; the probability is each unit's own all the
            same.
        generator, rng_state, shard: see there.

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides. A unit is kept if its 16-bit
        draw is less than ``rint(65536 * q)``, computed in fp32 for every dtype: bit for bit the
        same decision on every device and for every instruction set.

    Raises:
        ValueError, IndexError, TypeError, RuntimeError: naming the argument and what it was.
            Nothing is computed then, and no random number is drawn.

    Source: Ba and Frey, "Adaptive dropout for training deep neural networks", NeurIPS 2013.
    """
    function = "standout"
    if getattr(x, "is_nested", False):
        call = functools.partial(
            standout,
            alpha=alpha,
            beta=beta,
            training=training,
            generator=generator,
            rng_state=rng_state,
        )
        sharing = {"shared_dims": shared_dims, "noise_shape": noise_shape}
        return on_values(function, call, x, same={"z": z}, **sharing, shard=shard)
    shared_dims = shared_dims_of(function, x, shared_dims, noise_shape, shard=shard)
    if shard is None and is_plain(x, z):
        return _C.standout(function, x, z, alpha, beta, training, shared_dims, generator, rng_state)
    if not torch.compiler.is_compiling():
        _C.check_standout(function, x, z, alpha, beta, shared_dims, rng_state)
    draws = training and not is_empty(function, x, shard)
    place = mask_place(function, x, shard, shared_dims)
    return torch.ops.fused_dropout.standout(
        x,
        z,
        state_for(function, x, 0.5, draws, generator, rng_state),
        alpha,
        beta,
        training,
        list(shared_dims),
        *place,
    )
