"""Gaussian and Concrete dropout and Standout on the device, against the reference and the CPU."""

import pytest
import torch

from tests.gpu.on_device import DEVICE, STATE, there
from tests.helpers import DTYPES, same_bits
from tests.noise.calls import CALLS, every_call, every_call_with_a_scalar, every_drawing_call
from tests.noise.noise_call import upstream_of

SHAPES = [(70, 1024), (33, 1000), (5, 7), (1, 1), (2100, 31)]


def on_device(call, tensors, **options):
    """The result and the gradients of the call on the device, brought back."""
    moved = {key: there(value.detach()).requires_grad_() for key, value in tensors.items()}
    result = call.ours(moved, STATE.to(DEVICE), **options)
    gradients = call.gradients_of(result, moved, upstream_of(result.cpu()).to(DEVICE))
    return result.cpu(), {key: value.cpu() for key, value in gradients.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(call, shape, dtype):
    tensors = call.tensors_of(shape, dtype)
    result, gradients = on_device(call, tensors)
    call.check_values(tensors, result, gradients)


@every_drawing_call
def test_shared_draws(call):
    tensors = call.tensors_of((6, 5, 40))
    result, gradients = on_device(call, tensors, shared_dims=(1,))
    call.check_values(tensors, result, gradients, shared_dims=(1,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_units_are_those_of_the_cpu(dtype):
    """The decisions of Standout, bit for bit."""
    call = CALLS["standout"]
    tensors = call.tensors_of((70, 1024), dtype)
    result, gradients = on_device(call, tensors)
    here = call.ours(tensors)
    assert same_bits(result, here.detach())
    assert same_bits(gradients["x"], call.gradients_of(here, tensors, upstream_of(here))["x"])


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@every_call_with_a_scalar
def test_same_bits_on_every_run(call, dtype):
    tensors = call.tensors_of((2100, 1024), dtype)
    first, second = (on_device(call, tensors)[1] for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@every_drawing_call
def test_a_generator_draws(call):
    tensors = {key: there(value.detach()) for key, value in call.tensors_of((64, 64)).items()}
    generator = torch.Generator(DEVICE)
    runs = []
    for seed in (3, None, 3):
        if seed is not None:
            generator.manual_seed(seed)
        runs.append(call(tensors, generator=generator))
    assert torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[1])
