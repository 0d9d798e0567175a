"""The row operators on the device against the CPU kernels, which round the same formulas."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.gpu.on_device import DEVICE, STATE
from tests.helpers import ACTIVATIONS, DTYPES
from tests.row_operators.calls import (
    CALLS,
    P,
    check_values,
    every_call,
    every_norm,
    gradients_of,
    is_norm,
    ours,
    tensors_of,
    upstream_of,
)

HALVES = (torch.float16, torch.bfloat16)
# Row groups of part of a warp, of several and of all; rows of partial groups of eight; several
# iterations.
SHAPES = [(3, 5), (300, 1), (7, 31), (2, 3, 40), (1100, 64), (65, 257), (2100, 1024), (9, 8192)]
SHAPES += [(5, 8191), (3, 16384), (2, 20000)]


def on_device(tensors):
    return {
        key: value.detach().to(DEVICE).requires_grad_(value.requires_grad)
        for key, value in tensors.items()
    }


def there(name, tensors, upstream=None, **options):
    """Results and gradients by name, brought back from the device."""
    moved = on_device(tensors)
    results = ours(name, moved, rng_state=STATE.to(DEVICE), **options)
    upstream = [dy.to(DEVICE) for dy in upstream or upstream_of(one.cpu() for one in results)]
    gradients = gradients_of(results, moved, upstream)
    return [one.detach().cpu() for one in results], {k: v.cpu() for k, v in gradients.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(name, shape, dtype):
    tensors = tensors_of(name, shape, dtype)
    results, gradients = there(name, tensors)
    check_values(name, tensors, results, gradients, rng_state=STATE)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@every_norm
def test_residual_in_fp32(name, dtype):
    tensors = tensors_of(name, (70, 1024), dtype, residual_dtype=torch.float32)
    results, gradients = there(name, tensors)
    check_values(name, tensors, results, gradients, rng_state=STATE)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["layer_norm_full", "swiglu"])
def test_every_activation(name, activation, dtype, monkeypatch):
    monkeypatch.setitem(CALLS[name], "activation", activation)
    tensors = tensors_of(name, (70, 264), dtype)
    results, gradients = there(name, tensors)
    check_values(name, tensors, results, gradients, rng_state=STATE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["layer_norm_prenorm", "swiglu"])
def test_masks_are_those_of_dropout(name, shape):
    expected = FF.dropout_mask(shape, P, STATE)
    state = STATE.to(DEVICE)
    if is_norm(name):
        x = torch.ones(shape, device=DEVICE, requires_grad=True)
        y, h = FF.dropout_add_layer_norm(x, torch.zeros_like(x), p=P, prenorm=True, rng_state=state)
        (dx,) = torch.autograd.grad((y, h), x, (torch.zeros_like(y), torch.ones_like(h)))
        kept = [h != 0, dx != 0]
    else:
        x = torch.ones(*shape[:-1], 2 * shape[-1], device=DEVICE, requires_grad=True)
        y = FF.bias_glu_dropout(x, None, P, "identity", rng_state=state)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        kept = [y != 0, *(half != 0 for half in dx.chunk(2, -1))]
    assert all(torch.equal(one.cpu(), expected) for one in kept)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", [(2100, 1024), (513, 8191), (70, 16384)], ids=str)
@every_call
def test_same_bits_on_every_run(name, shape, dtype):
    tensors = tensors_of(name, shape, dtype)
    first, second = (there(name, tensors) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first[0], second[0], strict=True))
    assert all(torch.equal(value, second[1][key]) for key, value in first[1].items())


@every_call
def test_a_generator_draws(name):
    """Another mask with every call, the same from the same seed, and no state given."""
    tensors = on_device(tensors_of(name, (64, 64), grad=False))
    generator = torch.Generator(DEVICE)
    runs = []
    for seed in (3, None, 3):
        if seed is not None:
            generator.manual_seed(seed)
        runs.append(ours(name, tensors, rng_state=None, generator=generator)[0])
    assert torch.equal(runs[0], runs[2]) and not torch.equal(runs[0], runs[1])
