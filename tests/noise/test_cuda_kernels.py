"""The CUDA kernels of noise, run on the CPU: see tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import NoiseKernels
from tests.helpers import DTYPES, SEED, same_bits
from tests.noise.calls import CALLS, every_call, every_drawing_call
from tests.noise.noise_call import STATE, upstream_of

pytestmark = pytest.mark.usefixtures("emulated_kernels")

OFFSET = 8
# Tails, one group, several columns and rows of threads, several blocks.
SHAPES = [(1,), (7,), (8,), (9,), (63,), (64,), (5, 40), (1024,), (1025,), (3, 4096), (70001,)]


def kernels(x, **options):
    return NoiseKernels(x.detach(), seed=SEED, offset=OFFSET, **options)


def forward(call, tensors, **options):
    inputs = [tensors[key].detach() for key in call.elementwise]
    scalar = next((tensors[key].detach() for key in call.scalars), None)
    constants = call.constants(**call.arguments)
    return kernels(inputs[0], **options).run(call.functor, inputs, constants, scalar=scalar)[0]


def backward(call, tensors, dy, wanted=None, **options):
    """The gradients by name, as the host code of the operator computes them."""
    if call.backward_functor is None:
        return {"x": forward(call, tensors | {"x": dy}, **options)}
    wanted = wanted or call.differentiable
    inputs = [tensors[key].detach() for key in call.elementwise]
    scalar = next((tensors[key].detach() for key in call.scalars), None)
    found = kernels(dy, **options).run(
        call.backward_functor,
        [dy, *inputs],
        call.constants(**call.arguments),
        [key in wanted for key in call.differentiable if key in call.elementwise],
        scalar,
        need_sum=any(key in wanted for key in call.scalars),
    )
    named = zip(call.differentiable, found, strict=False)  # the sum is the last, if there is one
    return {key: one.to(tensors[key].dtype) for key, one in named if one is not None}


def check_all(call, tensors, options=None, **kernel_options):
    result = forward(call, tensors, **kernel_options)
    gradients = backward(call, tensors, upstream_of(result), **kernel_options)
    call.check_values(tensors, result, gradients, **(options or {}))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(call, shape):
    for dtype in DTYPES:
        check_all(call, call.tensors_of(shape, dtype))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)], ids=str)
@every_drawing_call
def test_shared_draws(call, shared, dtype):
    """Full groups that share a draw or take consecutive ones, and other groups."""
    for shape in [(3, 4, 16), (5, 2, 40), (2, 3, 7)]:
        tensors = call.tensors_of(shape, dtype)
        strides = reference.mask_strides(shape, shared)
        check_all(call, tensors, {"shared_dims": shared}, mask=(shape, strides, 0))


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 8, 13, 2**40 + 8])
@every_drawing_call
def test_mask_offset(call, first):
    check_all(call, call.tensors_of((200,)), {"mask_offset": first}, first=first)


@every_drawing_call
def test_mask_strides_and_offset(call):
    """Strides that are neither one nor zero; a shared draw at an odd index."""
    tensors = call.tensors_of((5, 16))
    for strides, first in (([100, 3], 2), ([7, 0], 1), ([16, 1], 8)):
        result = forward(call, tensors, mask=((5, 16), strides, first))
        expected = call.operator(tensors, mask_strides=strides, mask_offset=first)
        assert torch.allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_standout_decisions_are_the_cpus(dtype):
    """Bit for bit."""
    generator = torch.Generator().manual_seed(0)
    z = (8 * torch.randn(300_000, generator=generator)).to(dtype)
    x = torch.ones_like(z)
    y = kernels(x).run("Standout", [x, z], [0.7, -0.3])[0]
    assert torch.equal(y, FF.standout(x, z, 0.7, -0.3, rng_state=STATE))


def test_standout_at_the_ends():
    z = torch.tensor([-torch.inf, -1e30, -20.0, 20.0, 1e30, torch.inf, torch.nan, 0.0])
    z = z.repeat(100)
    x = torch.where(z < -1, torch.nan, 3.0)
    y = kernels(x).run("Standout", [x, z], [1.0, 0.0])[0]
    assert torch.equal(y, FF.standout(x, z, rng_state=STATE))


@every_drawing_call
def test_close_to_the_cpu(call):
    """Other formulas for what a GPU has instructions for, and the same numbers within a few ULP."""
    tensors = call.tensors_of((100_000,))
    result, expected = forward(call, tensors), call.ours(tensors).detach()
    assert torch.allclose(result, expected, rtol=2e-5, atol=1e-6)


@every_drawing_call
def test_unaligned(call):
    tensors = call.tensors_of((1000,))
    aligned = forward(call, tensors)
    moved = call.map_elementwise(lambda t: torch.cat([t[:1], t])[1:], tensors)
    assert torch.allclose(forward(call, moved), aligned, rtol=1e-6, atol=0)


@pytest.mark.parametrize("call", [one for one in CALLS.values() if one.backward_functor])
def test_only_what_is_wanted(call):
    tensors = call.tensors_of((3000,))
    dy = upstream_of(tensors["x"])
    full = backward(call, tensors, dy)
    for key in call.differentiable:
        alone = backward(call, tensors, dy, (key,))
        assert alone.keys() == {key} and same_bits(alone[key], full[key])
