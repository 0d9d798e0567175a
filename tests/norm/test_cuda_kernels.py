"""The CUDA kernels of the row operators, run on the CPU by tests/cuda_emulator/shim.h: see
tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import GatedKernels, NormKernels, RowGrid, set_shared
from tests.helpers import ACTIVATIONS, DTYPES, SEED
from tests.row_calls import (
    CALLS,
    P,
    activation_of,
    check_values,
    every_call,
    every_norm,
    is_norm,
    tensors_of,
    upstream_of,
)

OFFSET = 8
STATE = torch.tensor([SEED, OFFSET])
PARAMETERS = {"leaky_relu": 0.01, "elu": 1.0}
HALVES = (torch.float16, torch.bfloat16)

# Teams of one thread, of part of a warp, of a warp and of several; rows within and across groups of
# eight; several groups a thread; more rows than teams, and turns.
SHAPES = [
    (1, 1), (3, 5), (300, 1), (2, 8), (7, 31), (5, 33), (260, 40), (3, 100), (1100, 64), (65, 257),
    (9, 768), (3, 1001), (2, 2048), (2, 4096), (2, 5000), (3, 8191), (2, 12288), (2, 16384),
]  # fmt: skip


def kernels(name, tensors, p=P, **options):
    """The kernels of a call of tests/rows/row_calls.py."""
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
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(name, shape, dtype):
    check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", ["layer_norm_prenorm_full", "rms_norm"])
def test_many_rows(name, dtype):
    """Of many teams to a block, which take several rows one after the other."""
    shape = (4200, 264)
    grid = RowGrid(*shape, sums=True)
    assert grid.threads == 512 and grid.teams == 8 and grid.rows_per_team == 2
    check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@every_norm
def test_wide_stream(name, dtype):
    for shape in [(5, 64), (3, 77), (2, 8192)]:
        check_all(name, tensors_of(name, shape, dtype, stream=torch.float32))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["layer_norm_full", "rms_norm_prenorm", "swiglu"])
def test_every_activation(name, activation, dtype, monkeypatch):
    monkeypatch.setitem(CALLS[name], "activation", activation)
    check_all(name, tensors_of(name, (6, 72), dtype))


@pytest.mark.parametrize("name", ["layer_norm_prenorm_full", "layer_norm", "rms_norm_full", "glu"])
def test_wide_vectors(name):
    """Vectors in fp32 beside 16 bits."""
    for width in (72, 75):
        tensors = tensors_of(name, (6, width), torch.bfloat16)
        for key, value in tensors.items():
            if key not in ("x", "residual"):
                tensors[key] = value.detach().float().requires_grad_(value.requires_grad)
        call = kernels(name, tensors)
        results = results_of(name, call)
        gradients = gradients_of(name, call, upstream_of(results), tensors)
        narrow = {key: value.bfloat16() for key, value in tensors.items()}
        for one, other in zip(results, results_of(name, kernels(name, narrow)), strict=True):
            assert torch.equal(one, other), "the same numbers in another type"
        for key, value in gradients.items():
            assert value.dtype == tensors[key].dtype and bool(value.isfinite().all())


# ---------------------------------------------------------------- masks


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
@pytest.mark.parametrize("name", ["layer_norm", "swiglu"])
def test_masks_are_the_contracts(name, shape):
    for p in (0.1, 0.5, 0.999):
        # It is the contract's, as tests/pointwise/test_masks.py shows.
        expected = FF.dropout_mask(shape, p, STATE)
        for kept in kept_by(name, shape, p=p):
            assert torch.equal(kept, expected)


@pytest.mark.parametrize("shared", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(3, 4, 64), (5, 2, 40), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "swiglu"])
def test_shared_masks(name, shape, shared):
    strides = reference.mask_strides(torch.ones(shape), shared)
    expected = reference.dropout_mask(shape, P, (SEED, OFFSET), shared_dims=shared)
    for kept in kept_by(name, shape, mask=(shape, strides, 0)):
        assert torch.equal(kept, expected)


@pytest.mark.parametrize("name", ["layer_norm", "swiglu"])
@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_or_all_dropped(name, p):
    for shape in [(5, 64), (5, 31)]:
        for kept in kept_by(name, shape, p=p):
            assert bool((kept == (p == 0)).all())


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", (torch.float32, *HALVES), ids=str)
@every_call
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


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64), ids=str)
@every_norm
def test_sums_in_global_memory(name, dtype):
    """The bits are the same wherever a block has its sums."""
    tensors = tensors_of(name, (700, 264), dtype)
    call = kernels(name, tensors)
    upstream = upstream_of(call.forward())
    shared = call.backward(*upstream)
    assert call.in_shared
    try:
        set_shared(20 * 1024)  # enough for what is copied ahead
        found = call.backward(*upstream)
        assert not call.in_shared
    finally:
        set_shared(226 * 1024)
    for key, value in shared.items():
        assert torch.equal(value, found[key]), key


@every_norm
@pytest.mark.parametrize("dtype", HALVES)
def test_too_little_memory_to_copy_ahead(name, dtype):
    """The bits are the same without."""
    tensors = tensors_of(name, (33, 264), dtype)
    call = kernels(name, tensors)
    results = call.forward()
    upstream = upstream_of(results)
    gradients = call.backward(*upstream)
    try:
        set_shared(1024)
        assert all(map(torch.equal, call.forward(), results))
        found = call.backward(*upstream)
    finally:
        set_shared(226 * 1024)
    assert all(torch.equal(gradients[key], found[key]) for key in gradients)


@pytest.mark.parametrize("width", [64, 768, 1024, 2048, 4096, 8192])
def test_many_rows_keep_processors_busy(width):
    """32 warps on each of 132 processors, with no more partial sums than 512 rows."""
    grid = RowGrid(131072, width, sums=True)
    assert grid.blocks <= 512 and grid.blocks * grid.threads >= 132 * 32 * 32
    grid = RowGrid(131072, width, sums=False)
    assert grid.blocks * grid.threads >= 132 * 32 * 32


@every_norm
def test_gradients_that_are_not_wanted(name):
    tensors = tensors_of(name, (50, 72))
    call = kernels(name, tensors)
    upstream = upstream_of(call.forward())
    whole = call.backward(*upstream)
    for wanted in ([], ["x"], ["residual"], ["bias"], ["weight", "x"], ["layer_scale"]):
        found = call.backward(*upstream, wanted=wanted)
        assert list(found) == [key for key in whole if key in wanted]
        for key, value in found.items():
            assert torch.allclose(value, whole[key], rtol=1e-5, atol=1e-5), key
    if len(upstream) == 2:
        alone = call.backward(upstream[0])
        zeros = call.backward(upstream[0], torch.zeros_like(upstream[1]))
        assert all(torch.equal(alone[key], zeros[key]) for key in alone)


def test_gated_gradients_that_are_not_wanted():
    tensors = tensors_of("swiglu", (50, 72))
    call = kernels("swiglu", tensors)
    upstream = upstream_of((call.forward(),))
    dx, dbias = call.backward(*upstream)
    assert torch.equal(call.backward(*upstream, need_dbias=False)[0], dx)
    assert torch.equal(call.backward(*upstream, need_dx=False)[1], dbias)


@every_call
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


def test_nothing_leaks_from_dropped_places():
    x = torch.full((64, 64), torch.nan)
    kept = reference.dropout_mask(x.shape, 0.5, (SEED, OFFSET))
    call = NormKernels({"x": x}, norm="layer_norm", prenorm=True, p=0.5, seed=SEED, offset=OFFSET)
    _, h = call.forward()
    assert torch.equal(h.isnan(), kept)
    call = GatedKernels(
        torch.full((64, 128), torch.nan), p=0.5, activation="silu", seed=SEED, offset=OFFSET
    )
    assert torch.equal(call.forward().isnan(), kept)
    dgate, dvalue = call.backward(torch.full((64, 64), torch.inf))[0].chunk(2, -1)
    assert bool((dgate[~kept] == 0).all()) and bool((dvalue[~kept] == 0).all())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_equal_values_are_zero(shape, dtype):
    """They have nothing but the rounding of the mean to be normalised."""
    rows, width = shape
    values = torch.tensor([0.1, -33333.333, 1e-3, 7.0])[torch.arange(rows) % 4]
    x = values.to(dtype)[:, None].repeat(1, width)
    tensors = {"x": x, "residual": torch.zeros_like(x), "weight": torch.ones(width, dtype=dtype)}
    tensors["norm_bias"] = torch.zeros(width, dtype=dtype)
    for name in ("layer_norm", "layer_norm_prenorm"):
        y, *_ = kernels(name, tensors, p=0.0).forward()
        assert (y == 0).all()
