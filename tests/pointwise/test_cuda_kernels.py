"""The CUDA kernels' own source, run on the CPU by tests/cuda_emulator, against the CPU kernels.

No GPU and no CUDA toolkit is needed: g++ compiles what nvcc would. What a GPU adds (its rounding of
approximate instructions, real concurrency) is for tests on one.
"""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import ColumnGrid, Kernels, divide
from tests.helpers import ACTIVATIONS, DTYPES, SEED, operator, ordinals, state

pytestmark = pytest.mark.usefixtures("emulated_kernels")

OFFSET = 8
STATE = state(SEED, OFFSET)
HALVES = (torch.float16, torch.bfloat16)

# Columns of one and of several thread blocks, rows that start within a group of eight, tails, a
# single element, many more rows than columns and the other way round.
SHAPES = [
    (1, 1), (3, 5), (8, 64), (2, 8), (7, 31), (5, 33), (33, 40), (1, 4096), (3, 8191), (70, 1000),
    (65, 1001), (2049, 3), (1100, 1), (4, 2048), (300, 256), (2, 70000),
]  # fmt: skip


def kernels(x, bias=None, **options):
    return Kernels(x, bias, seed=SEED, offset=OFFSET, **options)


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def close(ours, theirs, ulps=1):
    """Both round the same formulas, only one of them with fused multiply-adds."""
    if ours.dtype in HALVES:
        return bool((((ordinals(ours) - ordinals(theirs)).abs() <= 1)
                     | ((ours - theirs).abs() < 1e-6)).all())  # fmt: skip
    unit = torch.finfo(ours.dtype).eps
    return torch.allclose(ours, theirs, rtol=8 * unit, atol=8 * unit)


def gradients(x, bias, dy, residual=None, bias_dim=-1, **options):
    x = x.clone().requires_grad_()
    bias = None if bias is None else bias.clone().requires_grad_()
    y = operator(x, bias, residual, STATE, bias_dim=bias_dim, **options)
    return y.detach(), torch.autograd.grad(y, [t for t in (x, bias) if t is not None], dy)


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_masks_are_the_contracts(shape, p):
    x = torch.ones(shape)
    expected = reference.dropout_mask(shape, p, (SEED, OFFSET))
    assert torch.equal(kernels(x, p=p).forward() != 0, expected)
    assert torch.equal(kernels(x, p=p).backward(torch.ones(shape))[0] != 0, expected)
    assert torch.equal(kernels(x, p=p).mask(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("first", [0, 3, 8, 2**33 - 5, 2**35 + 16, 2**40])
def test_masks_far_into_a_tensor(first, dtype):
    """Aligned and unaligned positions, and positions beyond 2^32 groups."""
    x = torch.ones(40, 72, dtype=dtype)
    expected = FF.dropout_mask(x.shape, 0.4, STATE) if first == 0 else operator(
        x.float(), None, None, STATE, p=0.4, mask_offset=first) != 0  # fmt: skip
    assert torch.equal(kernels(x, p=0.4, first=first).forward() != 0, expected)
    assert torch.equal(kernels(x, p=0.4, first=first).backward(x)[0] != 0, expected)


@pytest.mark.parametrize("shape", [(4, 6, 16, 8), (3, 5, 7, 9), (2, 3, 8, 8), (16, 24, 4, 2)])
@pytest.mark.parametrize(
    "shared", [s for n in range(1, 5) for s in itertools.combinations(range(4), n)]
)
def test_shared_masks(shape, shared):
    x = torch.ones(shape)
    strides = reference.mask_strides(x, shared)
    expected = FF.dropout_mask(shape, 0.5, STATE, shared_dims=shared)
    call = kernels(x, p=0.5, mask=(shape, strides, 0))
    assert torch.equal(call.forward() != 0, expected)
    assert torch.equal(call.backward(x)[0] != 0, expected)
    assert torch.equal(call.mask(), expected)


def test_division_by_a_known_number():
    powers = [2**k + d for k in range(63) for d in (-1, 0, 1)]
    others = [3, 7, 49, 641, 1000, 6700417, 10**12 + 39, 3**39]
    numbers = sorted({n for n in (*powers, *others, 2**63 - 1, 2**63 - 2) if 0 < n < 2**63})
    for divisor in numbers:
        multiples = [n for k in (1, 2, 3, 1000, 2**40) for n in (k * divisor - 1, k * divisor)]
        for numerator in (0, *numbers, *(n for n in multiples if n < 2**63)):
            assert divide(numerator, divisor) == numerator // divisor, (numerator, divisor)
            if max(numerator, divisor) < 2**31:
                assert divide(numerator, divisor, short=True) == numerator // divisor


THREADS = 128  # of a block: kThreads in csrc/cuda/device/column_loop.cuh


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(
    "numel, channels",
    [(1000, 1), (2**20 + 3, 1000), (2**33 + 5, 1), (2**35, 4096), (2**34 + 8, 8191),
     (3 * 2**36, 2**31), (2**38, 2**37), (2**36 + 1, 2**36 + 1), (2**37, 2**28 + 3)],
)  # fmt: skip
def test_column_loop_covers_tensors_of_any_size(numel, channels, backward):
    """A thread visits its column of the block's rows, as many of them as the tensor has."""
    grid = ColumnGrid(numel, channels, backward=backward)
    assert grid.column_blocks * grid.row_blocks < 2**31, "more blocks than a launch takes"
    groups = grid.full_groups + (numel % 8 > 0)
    deep = THREADS // grid.width
    for row_block in (0, grid.row_blocks // 2, grid.row_blocks - 1):
        for column_block in (0, grid.column_blocks // 2, grid.column_blocks - 1):
            block = row_block * grid.column_blocks + column_block
            for thread in (0, 1, 31, 32, 77, THREADS - 1):
                column = column_block * grid.width + thread % grid.width
                first_row = row_block * grid.rows_per_block
                visited = range(
                    (first_row + thread // grid.width) * grid.columns + column,
                    min(groups, (first_row + grid.rows_per_block) * grid.columns),
                    deep * grid.columns,
                )
                if column >= grid.columns or not visited:
                    assert grid.visited(block, thread)[0] == 0
                else:
                    expected = (len(visited), visited[0], visited[-1])
                    assert grid.visited(block, thread) == expected


@pytest.mark.parametrize("channels", [1, 8, 96, 240, 256, 1000, 4096])
def test_lanes_that_are_idle(channels):
    """None without a bias; with one no more than one in 32."""
    grid = ColumnGrid(2**27, channels)
    lanes = grid.column_blocks * grid.width
    assert lanes == grid.columns if channels == 1 else 32 * (lanes - grid.columns) <= lanes


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("numel, channels", [(2**27, 1), (2**27, 4096), (2**27, 1000), (2**30, 64)])
def test_threads_of_large_tensors_do_much(numel, channels, backward):
    """What a thread does before its loop is spread over 16 groups; there are several waves.

    Backward has fewer blocks, as each leaves partial sums.
    """
    grid = ColumnGrid(numel, channels, backward=backward)
    count, _, _ = grid.visited(grid.column_blocks, 0)
    assert count >= 16
    assert grid.column_blocks * grid.row_blocks >= (2048 if backward else 4096)


@pytest.mark.parametrize("mode", ["classic", "alpha"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_modes(mode, dtype):
    x, dy = random(9, 200, dtype=dtype), random(9, 200, dtype=dtype, seed=1)
    y, (dx,) = gradients(x, None, dy, p=0.3, activation="selu", mode=mode)
    call = kernels(x, p=0.3, activation="selu", mode=mode)
    assert close(call.forward(), y)
    assert close(call.backward(dy, x)[0], dx)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, dtype):
    x, dy = random(9, 200, dtype=dtype), random(9, 200, dtype=dtype, seed=1)
    bias = random(200, dtype=dtype, seed=2)
    parameter = {"leaky_relu": 0.01, "elu": 1.0}.get(activation, 0.0)
    call = kernels(x, bias, p=0.3, activation=activation, parameter=parameter)
    y, (dx, dbias) = gradients(x, bias, dy, p=0.3, activation=activation)
    assert close(call.forward(), y)
    ours = call.backward(dy, x, bias_dtype=dtype)
    assert close(ours[0], dx)
    assert torch.allclose(ours[1].double(), dbias.double(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size(shape, dtype):
    x, dy = random(*shape, dtype=dtype), random(*shape, dtype=dtype, seed=1)
    bias = random(shape[1], dtype=dtype, seed=2)
    call = kernels(x, bias, p=0.1, activation="gelu")
    y, (dx, _) = gradients(x, bias, dy, p=0.1, activation="gelu")
    assert close(call.forward(), y)
    ours, dbias = call.backward(dy, x, bias_dtype=dtype)
    assert close(ours, dx)
    # The sum of what was stored, but before it was rounded.
    terms = gradients(x.double(), bias.double(), dy.double(), p=0.1, activation="gelu")[1][0]
    unit = torch.finfo(torch.float32 if dtype in HALVES else dtype).eps
    bound = terms.abs().sum(0) * 32 * unit + 1e-6 + terms.sum(0).abs() * torch.finfo(dtype).eps
    if dtype in HALVES:
        bound += 1e-5 * terms.abs().sum(0)  # their formulas are that accurate
    assert bool(((dbias.double() - terms.sum(0)).abs() <= bound).all())


@pytest.mark.parametrize("dtype", (torch.float32, *HALVES))
@pytest.mark.parametrize("shift", [1, 3, 7])
def test_unaligned_pointers(dtype, shift):
    shape = (19, 40)
    storage = random(4, 19 * 40 + 8, dtype=dtype)
    x, dy, y, dx = (row[shift : shift + 19 * 40].view(shape) for row in storage)
    bias = random(41, dtype=dtype, seed=2)[1:]
    expected, (expected_dx, _) = gradients(x, bias, dy, p=0.3, activation="gelu")
    call = kernels(x, bias, p=0.3, activation="gelu")
    call.backward(dy, x, dx=dx)
    assert close(dx, expected_dx)
    assert close(call.forward(y=y), expected)


@pytest.mark.parametrize("dtype", HALVES)
def test_mixed_dtypes(dtype):
    """A bias, a residual and an upstream gradient in fp32 beside 16 bits."""
    x, bias = random(12, 136, dtype=dtype), random(136, seed=2)
    residual, dy = random(12, 136, seed=3), random(12, 136, seed=1)
    y, (dx, dbias) = gradients(x, bias, dy, residual, p=0.3, activation="silu")
    call = kernels(x, bias, p=0.3, activation="silu")
    ours = call.forward(residual)
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, y, rtol=1e-5, atol=1e-5)
    ours = call.backward(dy, x, bias_dtype=torch.float32)
    assert close(ours[0], dx)
    assert torch.allclose(ours[1], dbias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (2, 16, 8, 8), (1, 3, 33, 33), (5, 1, 6, 6)])
def test_bias_of_channels(shape):
    x, dy = random(*shape), random(*shape, seed=1)
    bias = random(shape[1], seed=2)
    inner = shape[2] * shape[3]
    y, (dx, dbias) = gradients(x, bias, dy, p=0.25, activation="relu", bias_dim=1)
    call = kernels(x, bias, p=0.25, activation="relu", inner=inner)
    assert close(call.forward(), y)
    ours = call.backward(dy, x, bias_dtype=torch.float32)
    assert close(ours[0], dx)
    assert torch.allclose(ours[1], dbias, rtol=1e-5, atol=1e-4)


def test_residual_and_in_place():
    x, residual = random(17, 48), random(17, 48, seed=3)
    expected = operator(x, None, residual, STATE, p=0.3)
    assert torch.equal(kernels(x, p=0.3).forward(residual), expected)
    expected = operator(x, None, None, STATE, p=0.3)
    kernels(x, p=0.3).forward(y=x)
    assert torch.equal(x, expected)


def test_bias_gradient_alone():
    x, dy, bias = random(40, 72), random(40, 72, seed=1), random(72, seed=2)
    call = kernels(x, bias, p=0.3, activation="gelu")
    dx, dbias = call.backward(dy, x, bias_dtype=torch.float32, need_dx=False)
    assert dx is None
    assert torch.equal(dbias, call.backward(dy, x, bias_dtype=torch.float32)[1])


def test_many_rows_accumulate_in_fp32():
    """65,536 rows of bf16 ones: 16-bit sums would stop at 256."""
    dy = torch.ones(65536, 8, dtype=torch.bfloat16)
    call = kernels(dy, torch.zeros(8, dtype=torch.bfloat16), p=0.5)
    _, dbias = call.backward(dy, bias_dtype=torch.float32)
    kept = FF.dropout_mask(dy.shape, 0.5, STATE).sum(0)
    assert torch.equal(dbias, kept * 2.0)


def test_dropped_elements_do_not_leak():
    x = torch.full((64, 64), torch.nan)
    dy = torch.full((64, 64), torch.inf)
    kept = FF.dropout_mask(x.shape, 0.5, STATE)
    call = kernels(x, torch.zeros(64), p=0.5, activation="gelu")
    assert torch.equal(call.forward().isnan(), kept)
    dx, _ = call.backward(dy, x)
    assert bool((dx[~kept] == 0).all())
