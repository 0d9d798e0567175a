"""The CUDA kernels of noise, run on the CPU: see tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import NoiseKernels
from tests.helpers import DTYPES, SEED, same_bits
from tests.noise.calls import (
    ALPHA,
    BETA,
    STATE,
    TEMPERATURE,
    P,
    check_values,
    every_call,
    every_drawing_call,
    ours,
    tensors_of,
    upstream_of,
)

pytestmark = pytest.mark.usefixtures("emulated_kernels")

OFFSET = 8
# Tails, one group, several columns and rows of threads, several blocks.
SHAPES = [(1,), (7,), (8,), (9,), (63,), (64,), (5, 40), (1024,), (1025,), (3, 4096), (70001,)]


def kernels(tensors, **options):
    return NoiseKernels(tensors["x"].detach(), seed=SEED, offset=OFFSET, **options)


def forward(name, tensors, **options):
    call = kernels(tensors, **options)
    if name == "gaussian":
        return call.gaussian(P)
    if name == "concrete":
        return call.concrete(tensors["logit"].detach(), TEMPERATURE)
    return call.standout(tensors["z"].detach(), ALPHA, BETA, name == "standout")


def backward(name, tensors, dy, **options):
    """By name."""
    upstream = NoiseKernels(dy, seed=SEED, offset=OFFSET, **options)
    if name == "gaussian":
        return {"x": upstream.gaussian(P)}
    if name == "standout":
        return {"x": upstream.standout(tensors["z"].detach(), ALPHA, BETA)}
    call = kernels(tensors, **options)
    if name == "concrete":
        logit = tensors["logit"].detach()
        dx, dlogit = call.concrete_backward(dy, logit, TEMPERATURE)
        return {"x": dx, "logit": dlogit.to(logit.dtype)}
    dx, dz = call.standout_backward(dy, tensors["z"].detach(), ALPHA, BETA)
    return {"x": dx, "z": dz}


def check_all(name, tensors, options=None, **kernel_options):
    result = forward(name, tensors, **kernel_options)
    gradients = backward(name, tensors, upstream_of(result), **kernel_options)
    check_values(name, tensors, result, gradients, **(options or {}))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(name, shape):
    for dtype in DTYPES:
        check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@every_drawing_call
def test_shared_draws(name, shared, dtype):
    """Full groups that share a draw or take consecutive ones, and other groups."""
    for shape in [(3, 4, 16), (5, 2, 40), (2, 3, 7)]:
        tensors = tensors_of(name, shape, dtype)
        strides = reference.mask_strides(shape, shared)
        check_all(name, tensors, {"shared_dims": shared}, mask=(shape, strides, 0))


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 8, 13, 2**40 + 8])
@every_drawing_call
def test_mask_offset(name, first):
    check_all(name, tensors_of(name, (200,)), {"mask_offset": first}, first=first)


@every_drawing_call
def test_mask_strides_and_offset(name):
    """Strides that are neither one nor zero; a shared draw at an odd index."""
    tensors = tensors_of(name, (5, 16))
    for strides, first in (([100, 3], 2), ([7, 0], 1), ([16, 1], 8)):
        result = forward(name, tensors, mask=((5, 16), strides, first))
        expected = operator_at(name, tensors, strides, first)
        assert torch.allclose(result, expected, rtol=1e-5, atol=1e-5)


def operator_at(name, tensors, strides, first):
    from tests.noise.calls import operator

    return operator(name, tensors, mask_strides=strides, mask_offset=first).detach()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_standout_decisions_are_the_cpus(dtype):
    """Bit for bit."""
    generator = torch.Generator().manual_seed(0)
    z = (8 * torch.randn(300_000, generator=generator)).to(dtype)
    x = torch.ones_like(z)
    y = NoiseKernels(x, seed=SEED, offset=OFFSET).standout(z, 0.7, -0.3)
    assert torch.equal(y, FF.standout(x, z, 0.7, -0.3, rng_state=STATE))


def test_standout_at_the_ends():
    z = torch.tensor([-torch.inf, -1e30, -20.0, 20.0, 1e30, torch.inf, torch.nan, 0.0])
    z = z.repeat(100)
    x = torch.where(z < -1, torch.nan, 3.0)
    y = NoiseKernels(x, seed=SEED, offset=OFFSET).standout(z, 1.0, 0.0)
    assert torch.equal(y, FF.standout(x, z, rng_state=STATE))


@every_drawing_call
def test_close_to_the_cpu(name):
    """Other formulas for what a GPU has instructions for, and the same numbers within a few ULP."""
    tensors = tensors_of(name, (100_000,))
    result, expected = forward(name, tensors), ours(name, tensors).detach()
    assert torch.allclose(result, expected, rtol=2e-5, atol=1e-6)


@every_drawing_call
def test_unaligned(name):
    tensors = tensors_of(name, (1000,))
    aligned = forward(name, tensors)
    moved = {
        key: t if key == "logit" else torch.cat([t.detach()[:1], t.detach()])[1:]
        for key, t in tensors.items()
    }
    assert torch.allclose(forward(name, moved), aligned, rtol=1e-6, atol=0)


def test_only_what_is_wanted():
    tensors = tensors_of("concrete", (3000,))
    dy, logit = upstream_of(tensors["x"]), tensors["logit"].detach()
    call = kernels(tensors)
    dx, dlogit = call.concrete_backward(dy, logit, TEMPERATURE)
    alone, nothing = call.concrete_backward(dy, logit, TEMPERATURE, need_dlogit=False)
    assert nothing is None and same_bits(alone, dx)
    nothing, alone = call.concrete_backward(dy, logit, TEMPERATURE, need_dx=False)
    assert nothing is None and same_bits(alone, dlogit)
    z = torch.randn(3000)
    dx, dz = call.standout_backward(dy, z, ALPHA, BETA)
    assert same_bits(call.standout_backward(dy, z, ALPHA, BETA, (True, False))[0], dx)
    assert same_bits(call.standout_backward(dy, z, ALPHA, BETA, (False, True))[1], dz)
