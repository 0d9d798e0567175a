"""What the functions of this package do with their arguments before they call an operator."""

import operator

import torch
from torch.overrides import has_torch_function_variadic

from fused_dropout._extension import _C
from fused_dropout._shard import Shard

ACTIVATIONS = tuple(_C.ACTIVATIONS)
MODES = ("inverted", "classic", "alpha")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def is_plain(*tensors):
    """Whether a call can go through the extension module, rather than through ``torch.ops``."""
    return not torch.compiler.is_compiling() and not has_torch_function_variadic(*tensors)


def check_layout(function, argument, x):
    if x.layout != torch.strided:
        raise RuntimeError(
            f"{function}: {argument} has layout {x.layout}, but expected a dense tensor "
            "(torch.strided)"
        )


def check_kind(function, argument, x):
    """Of a tensor that torch's operators get before any of this package's."""
    check_layout(function, argument, x)
    if x.dtype not in DTYPES:
        raise RuntimeError(
            f"{function}: {argument} has dtype {x.dtype}, but expected float32, float64, float16 "
            "or bfloat16"
        )


def probability_arguments(p):
    """``p, p_tensor`` as the operators take them."""
    return (0.5, p) if isinstance(p, torch.Tensor) else (float(p), None)


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
    """A number, or, under torch.compile, a tensor whose value is read when the graph runs."""
    if isinstance(p, torch.Tensor):
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
    """What inverted dropout multiplies by; 0 where nothing is kept."""
    q = keep_probability(p)
    if isinstance(q, torch.Tensor):
        return torch.where(q > 0, 1 / q, 0)
    return 1 / q if q else 0.0


def check_mode(name, mode):
    """One of the modes that scale, in training or in evaluation; alpha dropout shifts too."""
    if mode not in ("inverted", "classic"):
        raise ValueError(f"{name}: mode is {mode!r}, but expected 'inverted' or 'classic'")
    return mode


def is_zero(p):
    return not isinstance(p, torch.Tensor) and p == 0


def whole_sizes(function, ndim, shard):
    """The sizes of what a tensor of this number of dimensions is a part of."""
    if not isinstance(shard, Shard):
        raise TypeError(f"{function}: shard is {shard!r}, but expected a fused_dropout.Shard")
    if len(shard.shape) != ndim:
        raise ValueError(
            f"{function}: shard has {len(shard.shape)} dimensions, but the tensor has {ndim}"
        )
    return shard.shape


def shared_dims_of(function, x, shared_dims, noise_shape, sizes=None, shard=None):
    """Of the two spellings the one that was used. `sizes`: of the mask, where not x's."""
    if noise_shape is None:
        return shared_dims
    check_tensor(function, "x", x)
    if not isinstance(noise_shape, (tuple, list)):
        raise TypeError(
            f"{function}: noise_shape is {noise_shape!r}, but expected a tuple of integers or None"
        )
    if shard is not None:
        sizes = whole_sizes(function, x.dim(), shard)
    elif sizes is None:
        sizes = x.shape
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


def row_options(p, activation, training, negative_slope, alpha, shared_dims, mode, place):
    """The options of an operator that works along the last dimension, in the order of its schema.

    ``place``: of the mask, ``mask_strides, mask_offset``.
    """
    return (
        *probability_arguments(p),
        activation,
        negative_slope,
        alpha,
        mode,
        training,
        list(shared_dims),
        *place,
    )


def state_for(function, x, p, training, generator, rng_state, shard=None):
    """The state of a call that goes through `torch.ops`; None where nothing is drawn."""
    if not training or (shard is not None and 0 in shard.shape):
        return None
    tensor_p = p if isinstance(p, torch.Tensor) else None
    if tensor_p is None and (p == 0 or p == 1):
        return None
    if rng_state is not None:
        check_tensor(function, "rng_state", rng_state)
        return rng_state
    check_generator(function, generator)
    if generator is not None and torch.compiler.is_compiling():
        raise TypeError(
            f"{function}: a generator cannot be an input of a compiled graph; draw a state outside "
            "with fused_dropout.new_rng_state(device, generator) and pass it as rng_state="
        )
    if not torch.compiler.is_compiling():
        return torch.ops.fused_dropout.draw_rng_state(x, tensor_p, generator=generator)
    # A fresh token for each call: see new_rng_state.
    token = torch.empty(2, dtype=torch.int64, device=x.device)
    return torch.ops.fused_dropout.draw_rng_state(token, tensor_p)
