"""Activations and their derivatives against float64: every 16-bit number, and millions in fp32.

Values and derivatives come from the kernels, in evaluation with an upstream gradient of one.
"""

import functools
import itertools

import numpy as np
import pytest
import torch

from tests.activation_oracle import (
    BOUNDS,
    HALVES,
    SLACK,
    check_sixteen_bits,
    exact,
    numbers,
    within_one_ulp,
    wrong_share,
)
from tests.helpers import ACTIVATIONS, CAPABILITIES, forced, operator, ulp


def computed(activation, x):
    x = x.detach().requires_grad_()
    y = operator(x, activation=activation, p=0.0, training=False)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), dx


@pytest.mark.parametrize("name", CAPABILITIES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sixteen_bit_results_are_correctly_rounded(activation, dtype, name):
    with forced(name):
        check_sixteen_bits(computed(activation, numbers(dtype)), activation)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_instruction_sets_agree_within_one_ulp(activation, dtype):
    results = []
    for name in CAPABILITIES:
        with forced(name):
            results.append(computed(activation, numbers(dtype)))
    for a, b in itertools.combinations(results, 2):
        assert all(map(within_one_ulp, a, b, SLACK))


# ---------------------------------------------------------------- fp32


@functools.cache
def sample():
    """Three million fp32 numbers: of all sizes, and most of them where functions bend."""
    everywhere = np.arange(0, 0x7F800000, 4001, dtype=np.uint32)
    first, last = np.array([2.0**-6, 128], dtype=np.float32).view(np.uint32)
    bends = np.arange(first, last, 89, dtype=np.uint32)
    positive = torch.from_numpy(np.concatenate([everywhere, bends]).view(np.float32))
    return torch.cat([positive, -positive])


@functools.lru_cache(maxsize=1)
def exact_sample(activation):
    return exact(activation, sample())


def largest_errors(activation):
    """Of the value and the derivative, in the units of `Bounds`."""
    y, dx = computed(activation, sample())
    value, derivative = exact_sample(activation)
    limits = torch.finfo(torch.float32)
    counts = (value.abs() >= limits.tiny) & (value.abs() <= limits.max)
    counts &= sample() > BOUNDS[activation].least
    value_error = ((y - value).abs() / ulp(value, torch.float32))[counts].max()
    unit = ulp(derivative.abs().clamp(min=0.125), torch.float32)
    finite = derivative.abs() <= limits.max
    return float(value_error), float(((dx - derivative).abs() / unit)[finite].max())


def tails_are_small(activation):
    """Everywhere, in tails and where results are not normal numbers, something still holds."""
    y, _ = computed(activation, sample())
    value, _ = exact_sample(activation)
    overflow = value.abs() > torch.finfo(torch.float32).max
    close = (y - value).abs() <= 6e-5 * value.abs() + 1e-36
    return bool(torch.where(overflow, y == value.sign() * torch.inf, close).all())


@pytest.mark.parametrize("name", CAPABILITIES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fp32_errors(activation, name):
    bounds = BOUNDS[activation]
    with forced(name):
        value, derivative = largest_errors(activation)
        assert value <= bounds.value
        assert derivative <= bounds.derivative
        assert tails_are_small(activation)


if __name__ == "__main__":
    for activation in ACTIVATIONS:
        for name in CAPABILITIES:
            with forced(name):
                errors = [*largest_errors(activation)]
                for dtype in HALVES:
                    errors += wrong_share(computed(activation, numbers(dtype)), activation)
            print(f"{activation:12} {name:8}", *(f"{error:9.3f}" for error in errors))
