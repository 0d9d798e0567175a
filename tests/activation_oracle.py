"""Exact values of the activations and their derivatives, and the promised error bounds.

The bounds are those that `csrc/math/activations.h` states; to measure them again, run
`python -m tests.pointwise.test_accuracy`.
"""

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from tests.helpers import correctly_rounded, ordinals

HALVES = (torch.float16, torch.bfloat16)


class Bounds(NamedTuple):
    """What is promised of one activation; measured, and rounded up a little.

    In fp32 with and without FMA; in 16 bits with the formulas for a GPU too.
    """

    value: float  # largest error in ULP of fp32
    derivative: float  # the same, in ULP of max(|derivative|, 1/8)
    float16: float  # percent of all results that are not the correctly rounded one
    bfloat16: float
    least: float = -torch.inf  # the smallest argument that `value` holds for


# Below `least` silu and mish are smaller than 1e-36. For gelu (smaller than 1e-7 there) the fit
# gets worse, up to 5e-5. For gelu_tanh and quick_gelu rounding the argument of the exponential
# costs more and more: up to 200 ULP.
BOUNDS = {
    "identity": Bounds(0, 0, 0, 0),
    "relu": Bounds(0, 0, 0, 0),
    "relu6": Bounds(0, 0, 0, 0),
    "leaky_relu": Bounds(0.9, 0, 0, 0),
    "gelu": Bounds(5.6, 5.6, 0.175, 0.15, least=-5.5),
    "gelu_tanh": Bounds(31, 5.7, 0.015, 0.015, least=-5),
    "quick_gelu": Bounds(9.2, 4.1, 0.01, 0.04, least=-5),
    "silu": Bounds(3.0, 3.0, 0.025, 0.035, least=-88),
    "sigmoid": Bounds(2.5, 3.8, 0.02, 0.035),
    "tanh": Bounds(1.2, 2.4, 0.03, 0.045),
    "elu": Bounds(1.1, 1.2, 0.01, 0.02),
    "selu": Bounds(2.0, 1.9, 0.01, 0.02),
    "softplus": Bounds(2.2, 2.1, 0.095, 0.02),
    "mish": Bounds(4.6, 5.6, 0.02, 0.035, least=-87),
    "hardswish": Bounds(2.5, 2.8, 0.005, 0.005),
    "squared_relu": Bounds(0.5, 0, 0, 0),
}
# In 16 bits no result is off by more than one ULP or these amounts: in the tail, where the value
# falls to zero sooner than it should, and where a derivative passes zero.
SLACK = (2.0**-50, 1e-6)  # value, derivative


def sigmoid_slope(x):
    return torch.sigmoid(x) * torch.sigmoid(-x)


def normal_cdf(x):
    # torch.special.ndtr is no more than an absolute 1e-16 in the tail.
    return 0.5 * torch.special.erfc(x * -(0.5**0.5))


def normal_density(x):
    return torch.exp(-0.5 * x * x) * (2 * torch.pi) ** -0.5


def times_sigmoid(inner, slope):
    """x * sigmoid(inner(x)), and its derivative where `slope` is that of `inner`."""

    def derivative(x):
        return torch.sigmoid(inner(x)) + x * sigmoid_slope(inner(x)) * slope(x)

    return lambda x: x * torch.sigmoid(inner(x)), derivative


TANH_FACTOR = 2 * (2 / torch.pi) ** 0.5
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848


def mish_slope(x):
    t = torch.tanh(F.softplus(x))
    return t + x * (1 - t * t) * torch.sigmoid(x)


# For every finite float32. In float64 an overflow in these formulas is harmless.
FUNCTIONS = {
    "identity": (lambda x: x, torch.ones_like),
    "relu": (F.relu, lambda x: (x > 0).double()),
    "relu6": (F.relu6, lambda x: ((x > 0) & (x < 6)).double()),
    "leaky_relu": (
        lambda x: torch.where(x > 0, x, 0.01 * x),
        lambda x: torch.where(x > 0, 1.0, 0.01).double(),
    ),
    "gelu": (
        lambda x: x * normal_cdf(x),
        lambda x: normal_cdf(x) + x * normal_density(x),
    ),
    "gelu_tanh": times_sigmoid(
        lambda x: TANH_FACTOR * (x + 0.044715 * x**3),
        lambda x: TANH_FACTOR * (1 + 3 * 0.044715 * x**2),
    ),
    "quick_gelu": times_sigmoid(lambda x: 1.702 * x, lambda x: torch.full_like(x, 1.702)),
    "silu": times_sigmoid(lambda x: x, torch.ones_like),
    "sigmoid": (torch.sigmoid, sigmoid_slope),
    "tanh": (torch.tanh, lambda x: torch.cosh(x) ** -2),
    "elu": (
        lambda x: torch.where(x > 0, x, torch.expm1(x)),
        lambda x: torch.where(x > 0, 1.0, torch.exp(x)),
    ),
    "selu": (
        lambda x: SELU_SCALE * torch.where(x > 0, x, SELU_ALPHA * torch.expm1(x)),
        lambda x: SELU_SCALE * torch.where(x > 0, 1.0, SELU_ALPHA * torch.exp(x)),
    ),
    "softplus": (F.softplus, torch.sigmoid),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), mish_slope),
    "hardswish": (
        lambda x: x * (x + 3).clamp(0, 6) / 6,
        lambda x: torch.where(x <= -3, 0.0, torch.where(x >= 3, 1.0, x / 3 + 0.5)),
    ),
    "squared_relu": (lambda x: F.relu(x).square(), lambda x: 2 * F.relu(x)),
}


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _selu(x):
    return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))


# The values for one Python number at a time, without torch: tests/reference compares the package's
# reference with these.
FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": math.tanh,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": _selu,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "squared_relu": lambda x: max(x, 0) ** 2,
}


def exact(activation, x):
    value, derivative = FUNCTIONS[activation]
    x = x.double()
    return value(x), derivative(x)


@functools.cache
def numbers(dtype):
    """All finite ones; pointwise/test_nonfinite.py has the others."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    return x[x.isfinite()]


@functools.lru_cache(maxsize=2)
def rounded(activation, dtype):
    return [correctly_rounded(result, dtype) for result in exact(activation, numbers(dtype))]


def wrong_share(results, activation):
    """Percent of (values, derivatives) of all `numbers` that are not the correctly rounded ones."""
    best = rounded(activation, results[0].dtype)
    return [100 * float((a != b).float().mean()) for a, b in zip(results, best, strict=True)]


def bound_of_share(activation, dtype):
    return getattr(BOUNDS[activation], str(dtype).removeprefix("torch."))


def check_sixteen_bits(results, activation):
    """Holds (values, derivatives) of all `numbers` of their dtype to the bounds."""
    dtype = results[0].dtype
    assert max(wrong_share(results, activation)) <= bound_of_share(activation, dtype)
    for ours, best, slack in zip(results, rounded(activation, dtype), SLACK, strict=True):
        assert within_one_ulp(ours, best, slack)


def within_one_ulp(a, b, slack):
    return bool((((ordinals(a) - ordinals(b)).abs() <= 1) | ((a - b).abs() <= slack)).all())
