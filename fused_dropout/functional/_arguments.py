"""Checks and conversions of the arguments that functions have in common."""

import operator

import torch

from fused_dropout._extension import _C
from fused_dropout._shard import Shard

ACTIVATIONS = tuple(_C.ACTIVATIONS)
MODES = ("inverted", "classic", "alpha")
# Classes whose values are their own. Other subclasses of Tensor say what operators do with them.
PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_layout(function, argument, x):
    if x.layout != torch.strided:
        raise RuntimeError(
            f"{function}: {argument} has layout {x.layout}, but expected a dense tensor "
            "(torch.strided)"
        )


def check_kind(function, argument, x):
    """For a tensor that goes to an operator of torch before it goes to one of this package."""
    check_layout(function, argument, x)
    if x.dtype not in DTYPES:
        raise RuntimeError(
            f"{function}: {argument} has dtype {x.dtype}, but expected float32, float64, float16 "
            "or bfloat16"
        )


def probability_arguments(p, training):
    """``p, p_tensor`` as the operators take them, and whether the call needs random numbers.

    If ``p`` is a tensor, the number does not count, and the call is taken to need random numbers.
    """
    if _is_tensor(p):
        return 0.5, p, bool(training)
    return float(p), None, bool(training) and p != 0 and p != 1


def normalized_dims(function, dims, ndim):
    try:
        dims = [dim if isinstance(dim, int) else operator.index(dim) for dim in dims]
    except TypeError:
        raise TypeError(
            f"{function}: shared_dims is {dims!r}, but expected a sequence of integers"
        ) from None
    for dim in dims:
        if not -ndim <= dim < ndim:
            raise IndexError(f"{function}: shared_dims has {dim}, but x has {ndim} dimensions")
    dims = [dim % ndim for dim in dims]
    if len(set(dims)) != len(dims):
        raise ValueError(f"{function}: shared_dims names a dimension twice: {dims}")
    return dims


def check_tensor(function, argument, x):
    """For functions that look at a tensor before an operator does."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(
            f"{function}: {argument} is of type {type(x).__name__}, but expected a Tensor"
        )


def check_generator(function, generator):
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"{function}: generator is of type {type(generator).__name__}, but expected a "
            "torch.Generator or None"
        )


def probability(p, function="dropout", argument="p"):
    """``p`` as a number; under ``torch.compile`` a tensor stays one, which the graph reads."""
    if _is_tensor(p):
        if p.requires_grad:
            raise TypeError(
                "dropout probability p is a constant, but got a tensor that requires grad"
            )
        if p.dim() != 0:
            raise TypeError(
                f"dropout probability p is a scalar, but got a tensor of shape {tuple(p.shape)}"
            )
        if torch.compiler.is_compiling():
            return p.to(torch.float64)
        p = p.item()
    try:
        is_probability = 0 <= p <= 1
    except TypeError:
        raise TypeError(
            f"{function}: {argument} is {p!r}, but expected a number or a 0-d tensor"
        ) from None
    if not is_probability:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return p


def keep_probability(p):
    """The probability that is really applied: ``p`` acts in steps of 2^-16."""
    steps = (1 - p) * 65536
    return (steps.round() if isinstance(steps, torch.Tensor) else round(steps)) / 65536


def inverted_scale(p):
    """The factor of inverted dropout; 0 if nothing is kept."""
    q = keep_probability(p)
    if isinstance(q, torch.Tensor):
        return torch.where(q > 0, 1 / q, 0)
    return 1 / q if q else 0.0


def check_mode(name, mode):
    """For functions without alpha mode."""
    if mode not in ("inverted", "classic"):
        raise ValueError(f"{name}: mode is {mode!r}, but expected 'inverted' or 'classic'")
    return mode


def is_zero(p):
    return not _is_tensor(p) and p == 0


def _is_tensor(p):
    # Several times as fast for a float as `isinstance` alone, which asks the metaclass of Tensor.
    return type(p) is not float and isinstance(p, torch.Tensor)


def full_sizes(function, ndim, shard):
    """The sizes of the full tensor of which a tensor with ``ndim`` dimensions is a part."""
    if not isinstance(shard, Shard):
        raise TypeError(f"{function}: shard is {shard!r}, but expected a fused_dropout.Shard")
    if len(shard.shape) != ndim:
        raise ValueError(
            f"{function}: shard has {len(shard.shape)} dimensions, but the tensor has {ndim}"
        )
    return shard.shape


def shared_dims_of(function, x, shared_dims, noise_shape, sizes_of=None, shard=None):
    """The dimensions that ``noise_shape`` shares; ``shared_dims`` if it is None.

    ``sizes_of``: function from ``x`` to the sizes of the mask; those of ``x`` if None.
    """
    if noise_shape is None:
        return shared_dims
    check_tensor(function, "x", x)
    if not isinstance(noise_shape, (tuple, list)):
        raise TypeError(
            f"{function}: noise_shape is {noise_shape!r}, but expected a tuple of integers or None"
        )
    if shard is not None:
        sizes = full_sizes(function, x.dim(), shard)
    else:
        sizes = x.shape if sizes_of is None else sizes_of(x)
    if shared_dims:
        raise ValueError(
            f"{function}: shared_dims is {tuple(shared_dims)} and noise_shape is "
            f"{tuple(noise_shape)}, but only one of them can be given"
        )
    if len(noise_shape) != x.dim():
        raise ValueError(
            f"{function}: noise_shape has {len(noise_shape)} entries, but x has {x.dim()} "
            "dimensions"
        )
    shared = []
    for dim, (size, wanted) in enumerate(zip(sizes, noise_shape, strict=True)):
        if wanted is None or wanted == size:
            continue
        if wanted != 1:
            raise ValueError(
                f"{function}: noise_shape has {wanted} in dimension {dim}, but expected 1, None or "
                f"the size {size}"
            )
        shared.append(dim)
    return shared
