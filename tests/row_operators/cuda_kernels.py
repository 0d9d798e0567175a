"""The CUDA kernels of the row operators, run on the CPU by tests/cuda_emulator: see
tests/pointwise/test_cuda_kernels.py.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import math

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import GatedKernels, NormKernels
from tests.helpers import ACTIVATIONS, DTYPES, SEED
from tests.row_operators.calls import (
    CALLS,
    P,
    activation_of,
    check_values,
    is_norm,
    tensors_of,
    upstream_of,
)

OFFSET = 8
STATE = torch.tensor([SEED, OFFSET])
PARAMETERS = {"leaky_relu": 0.01, "elu": 1.0}
HALVES = (torch.float16, torch.bfloat16)
# Row groups of one thread, of part of a warp, of a full warp and of several warps; row widths that
# are a multiple of eight and others; several groups of eight elements per thread; several rows per
# row group.
SHAPES = [
    (1, 1), (3, 5), (300, 1), (2, 8), (7, 31), (5, 33), (260, 40), (3, 100), (1100, 64), (65, 257),
    (9, 768), (3, 1001), (2, 2048), (2, 4096), (2, 5000), (3, 8191), (2, 12288), (2, 16384),
]  # fmt: skip


def kernels(name, tensors, p=P, **options):
    """The kernels of a call of tests/row_operators/calls.py."""
    activation = options.pop("activation", activation_of(name))
    options |= {"p": p, "activation": activation, "parameter": PARAMETERS.get(activation, 0.0)}
    options |= {"seed": SEED, "offset": OFFSET}
    call = CALLS[name]
    if is_norm(name):
        return NormKernels(tensors, norm=call["norm"], prenorm=call["prenorm"], **options)
    return GatedKernels(tensors["x"], tensors.get("bias"), gate_first=call["gate_first"], **options)


def results_of(name, call):
    return call.forward() if is_norm(name) else (call.forward(),)


def gradients_of(name, call, upstream, tensors):
    """By name, in the dtype of what they are by."""
    if is_norm(name):
        wanted = [key for key in tensors if key != "row_scale"]
        found = call.backward(*upstream, wanted=wanted)
    else:
        found = dict(zip(("x", "bias"), call.backward(*upstream), strict=True))
    return {key: value.to(tensors[key].dtype) for key, value in found.items()}


def check_all(name, tensors, **options):
    call = kernels(name, tensors, **options)
    results = results_of(name, call)
    gradients = gradients_of(name, call, upstream_of(results), tensors)
    check_values(name, tensors, results, gradients, rng_state=STATE, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel(name, dtype):
    """In rows of part of a warp, in many rows, and in rows of several warps."""
    for shape in ((7, 31), (260, 40), (9, 768), (2, 5000)):
        check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(example, shape):
    for dtype in DTYPES if shape[1] < 8000 else (torch.float32, torch.bfloat16):
        check_all(example, tensors_of(example, shape, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(example, activation, monkeypatch):
    monkeypatch.setitem(CALLS[example], "activation", activation)
    for dtype in (torch.float32, torch.bfloat16):
        check_all(example, tensors_of(example, (6, 72), dtype))


def test_wide_vectors(example):
    """Vectors in fp32 beside 16 bits."""
    for width in (72, 75):
        tensors = tensors_of(example, (6, width), torch.bfloat16)
        for key, value in tensors.items():
            if key not in ("x", "residual"):
                tensors[key] = value.detach().float().requires_grad_(value.requires_grad)
        call = kernels(example, tensors)
        results = results_of(example, call)
        gradients = gradients_of(example, call, upstream_of(results), tensors)
        narrow = {key: value.bfloat16() for key, value in tensors.items()}
        for one, other in zip(results, results_of(example, kernels(example, narrow)), strict=True):
            assert torch.equal(one, other), "the same numbers in another type"
        for key, value in gradients.items():
            assert value.dtype == tensors[key].dtype and bool(value.isfinite().all())


def kept_by(name, shape, dtype=torch.float32, p=P, **options):
    """Where forward keeps, and where backward does."""
    *rows, width = shape
    if is_norm(name):
        x = torch.ones(shape, dtype=dtype)
        call = NormKernels(
            {"x": x}, norm=CALLS[name]["norm"], prenorm=True, p=p, seed=SEED, offset=OFFSET,
            **options,
        )  # fmt: skip
        _, h = call.forward()
        # A gradient by h that is nowhere zero.
        gradient = call.backward(torch.zeros_like(x), torch.ones_like(x))["x"]
        return h != 0, gradient != 0
    x = torch.ones(*rows, 2 * width, dtype=dtype)
    call = GatedKernels(x, p=p, seed=SEED, offset=OFFSET, **options)
    dx, _ = call.backward(torch.ones(shape, dtype=dtype))
    dgate, dvalue = dx.chunk(2, -1)
    assert torch.equal(dgate != 0, dvalue != 0)
    return call.forward() != 0, dgate != 0


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_are_the_contracts(example, shape):
    for p in (0.1, 0.5, 0.999) if math.prod(shape) < 10_000 else (0.5,):
        # It is the contract's, as tests/pointwise/test_masks.py shows.
        expected = FF.dropout_mask(shape, p, STATE)
        for kept in kept_by(example, shape, p=p):
            assert torch.equal(kept, expected)


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 64), (5, 2, 40), (2, 3, 7)], ids=str)
def test_shared_masks(example, shape, shared):
    strides = reference.mask_strides(torch.ones(shape), shared)
    expected = reference.dropout_mask(shape, P, (SEED, OFFSET), shared_dims=shared)
    for kept in kept_by(example, shape, mask=(shape, strides, 0)):
        assert torch.equal(kept, expected)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_or_all_dropped(example, p):
    for shape in [(5, 64), (5, 31)]:
        for kept in kept_by(example, shape, p=p):
            assert bool((kept == (p == 0)).all())


@pytest.mark.parametrize("dtype", (torch.float32, *HALVES), ids=str)
def test_unaligned_pointers(name, dtype):
    aligned = tensors_of(name, (6, 40), dtype, grad=False)
    shifted = {}
    for key, value in aligned.items():
        memory = torch.empty(value.numel() + 3, dtype=value.dtype)
        shifted[key] = memory[3:].view(value.shape).copy_(value)
    calls = [kernels(name, tensors) for tensors in (aligned, shifted)]
    results = [results_of(name, call) for call in calls]
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)
    upstream = upstream_of(results[0])
    gradients = [gradients_of(name, call, upstream, aligned) for call in calls]
    for key, value in gradients[0].items():
        # Threads hold other elements of a row, and add them up in another order.
        unit = torch.finfo(dtype).eps
        assert torch.allclose(value, gradients[1][key], rtol=4 * unit, atol=4 * unit), key


def test_many_rows_accumulate_in_fp32(name):
    """20,000 rows of bf16: the same sums as those of fp64."""
    tensors = tensors_of(name, (20_000, 8), torch.bfloat16)
    call = kernels(name, tensors)
    results = results_of(name, call)
    upstream = upstream_of(results)
    wide = {key: value.detach().double() for key, value in tensors.items()}
    exact = kernels(name, wide)
    exact.forward()
    if is_norm(name):
        vectors = [key for key in tensors if key not in ("x", "residual", "row_scale")]
        found = call.backward(*upstream, wanted=vectors)
        truth = exact.backward(*(dy.double() for dy in upstream), wanted=vectors)
    else:
        found = {"bias": call.backward(*upstream)[1]}
        truth = {"bias": exact.backward(*(dy.double() for dy in upstream))[1]}
    for key, value in found.items():
        # With prenorm the rounded h is what is normalised.
        relative = (value.double() - truth[key]).abs().max() / truth[key].abs().max()
        assert relative < 1e-2, (key, relative)
