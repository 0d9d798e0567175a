"""The CUDA kernels of the normalised operators, run on the CPU by tests/cuda_emulator: see
tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

from fused_dropout import reference
from tests.cuda_emulator.shim import NormKernels, RowGrid, set_shared
from tests.helpers import DTYPES, SEED
from tests.row_operators.calls import (
    every_norm,
    tensors_of,
    upstream_of,
)
from tests.row_operators.cuda_kernels import *  # noqa: F403
from tests.row_operators.cuda_kernels import HALVES, OFFSET, SHAPES, check_all, kernels

pytestmark = pytest.mark.usefixtures("emulated_kernels")


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("name", ["layer_norm_prenorm_full", "rms_norm"])
def test_many_rows(name, dtype):
    """A thread block has many row groups. Each handles several rows, one after the other."""
    shape = (4200, 264)
    grid = RowGrid(*shape, sums=True)
    assert grid.threads == 512 and grid.row_groups == 8 and grid.rows_per_row_group == 2
    check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@every_norm
def test_residual_in_fp32(name, dtype):
    for shape in [(5, 64), (3, 77), (2, 8192)]:
        check_all(name, tensors_of(name, shape, dtype, residual_dtype=torch.float32))


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
    every = call.backward(*upstream)
    for wanted in ([], ["x"], ["residual"], ["bias"], ["weight", "x"], ["layer_scale"]):
        found = call.backward(*upstream, wanted=wanted)
        assert list(found) == [key for key in every if key in wanted]
        for key, value in found.items():
            assert torch.allclose(value, every[key], rtol=1e-5, atol=1e-5), key
    if len(upstream) == 2:
        alone = call.backward(upstream[0])
        zeros = call.backward(upstream[0], torch.zeros_like(upstream[1]))
        assert all(torch.equal(alone[key], zeros[key]) for key in alone)


def test_dropped_nans_do_not_leak():
    x = torch.full((64, 64), torch.nan)
    kept = reference.dropout_mask(x.shape, 0.5, (SEED, OFFSET))
    call = NormKernels({"x": x}, norm="layer_norm", prenorm=True, p=0.5, seed=SEED, offset=OFFSET)
    _, h = call.forward()
    assert torch.equal(h.isnan(), kept)


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_equal_values_are_zero(shape):
    """They have nothing but the rounding of the mean to be normalised."""
    rows, width = shape
    values = torch.tensor([0.1, -33333.333, 1e-3, 7.0])[torch.arange(rows) % 4]
    for dtype in DTYPES:
        x = values.to(dtype)[:, None].repeat(1, width)
        ones, zeros = torch.ones(width, dtype=dtype), torch.zeros(width, dtype=dtype)
        tensors = {"x": x, "residual": torch.zeros_like(x), "weight": ones, "norm_bias": zeros}
        for name in ("layer_norm", "layer_norm_prenorm"):
            y, *_ = kernels(name, tensors, p=0.0).forward()
            assert (y == 0).all()
