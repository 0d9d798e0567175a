"""Helpers of several test files."""

import functools
from contextlib import contextmanager

import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import _C, reference

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
CAPABILITIES = tuple(fd.build_info()["cpu_capabilities"])
ACTIVATIONS = FF.ACTIVATIONS

# A state with all 64 bits of the seed in use.
SEED = 0x0F1E2D3C4B5A6978


def state(seed=SEED, offset=8):
    return torch.tensor([seed, offset])


@contextmanager
def forced(capability):
    """The kernels of this instruction set run inside the context."""
    before = fd.build_info()["cpu_capability"]
    _C.force_cpu_capability(capability)
    try:
        yield
    finally:
        _C.force_cpu_capability(before)


@contextmanager
def thread_count(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def operator(
    x,
    bias=None,
    residual=None,
    rng_state=None,
    *,
    p=0.5,
    activation="identity",
    negative_slope=None,
    alpha=None,
    bias_dim=-1,
    mode="inverted",
    training=True,
    shared_dims=(),
    mask_strides=None,
    mask_offset=0,
):
    """The pointwise operator, with its two own options: the strides and the offset of the mask."""
    return torch.ops.fused_dropout.bias_act_dropout(
        x,
        bias,
        residual,
        rng_state,
        p,
        None,
        activation,
        negative_slope,
        alpha,
        bias_dim,
        mode,
        training,
        list(shared_dims),
        mask_strides,
        mask_offset,
    )


# ---------------------------------------------------------------- layouts


def in_order(shape, order, dtype=torch.float32):
    """An empty tensor whose dimensions have this order in memory, outermost first."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.empty([shape[dim] for dim in order], dtype=dtype).permute(inverse)


# Dimensions of a 4-D tensor in the order of memory.
ORDERS = {"contiguous": (0, 1, 2, 3), "channels_last": (0, 2, 3, 1), "permuted": (2, 0, 3, 1)}


# ---------------------------------------------------------------- masks that calls really applied


def forward_mask(x, rng_state, p, **options):
    """Which elements of `x`, whatever its values, the forward pass keeps."""
    ones = x.detach().fill_(1)
    return operator(ones, None, None, rng_state, p=p, **options) != 0


def backward_mask(x, rng_state, p, **options):
    """Which elements the backward pass keeps: those that have a gradient."""
    ones = x.detach().fill_(1).requires_grad_()
    y = operator(ones, None, None, rng_state, p=p, **options)
    (gradient,) = torch.autograd.grad(y, ones, torch.ones_like(y))
    return gradient != 0


@functools.lru_cache(maxsize=8)
def reference_mask(shape, p, seed=SEED, offset=8):
    """The reference's mask of a contiguous tensor; computed once for many tests."""
    return reference.dropout_mask(shape, p, (seed, offset))


# ---------------------------------------------------------------- accuracy

_MANTISSA_BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def ulp(value, dtype):
    """The distance between numbers of `dtype` at `value`, a float64 tensor."""
    exponent = torch.frexp(value).exponent.clamp(min=_smallest_exponent(dtype))
    return torch.ldexp(torch.ones_like(value), exponent - _MANTISSA_BITS[dtype])


def _smallest_exponent(dtype):
    return int(torch.frexp(torch.tensor(torch.finfo(dtype).tiny, dtype=torch.float64)).exponent)


def correctly_rounded(value, dtype):
    """The number of `dtype` nearest to `value`, a float64 tensor; ties to even."""
    unit = ulp(value, dtype)
    finite = (value / unit).round() * unit  # round() takes ties to even, and all else is exact
    overflow = finite.abs() > torch.finfo(dtype).max
    rounded = torch.where(overflow, torch.copysign(torch.tensor(torch.inf), value), finite)
    return torch.where(value.isfinite(), rounded, value).to(dtype)


def bits(x):
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def same_bits(a, b):
    """Zeros have a sign; any NaN is as good as any other."""
    return bool(((bits(a) == bits(b)) | (a.isnan() & b.isnan())).all())


def ordinals(x):
    """Maps the numbers of a dtype to successive integers, -0 and 0 to the same."""
    integers = bits(x)
    magnitude = (integers & torch.iinfo(integers.dtype).max).long()
    return torch.where(integers < 0, -magnitude, magnitude)
