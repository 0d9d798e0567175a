"""The bias gradient: of the masked gradient, in fp32, with the same bits on every run.

Tolerance as in test_values.py: the largest error is at most twice that of the unfused operators.
Free on top of that are one ULP of the result, and four ULP (in fp32; 16 in fp64, the reference's
own dtype) of the sum or of the Euclidean norm of its terms, whichever is larger. Where sums are few
their errors are a matter of luck. One test below compares those of many shapes taken together,
without a free part.
"""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import CAPABILITIES, forced, operator, state, thread_count, ulp

# Shape and bias dimension. Rows are cut into parts of at least 64; periods above 4096 with few
# rows into panels; runs of 64 elements and more of one channel are summed as runs.
ROWS = [(1, 64), (3, 33), (3, 8191), (300, 8191), (65536, 1), (65536, 31), (65536, 33), (65536, 64)]
PANELS = [(3, 70001), (1, 300000), (40, 20000), (2, 4097), (5, 131072)]
INNER = [(9, 5, inner) for inner in (*range(1, 67), 4096)]
CONVOLUTIONS = [
    (8, 64, 56, 56),
    (8, 3, 224, 224),
    (1, 1, 1000, 1000),
    (300, 64, 8, 8),
    (2, 7, 1, 1),
]


def gradient_of_bias(x, bias, dy, bias_dim, p=0.5, rng_state=None, with_dx=False, **options):
    x, bias = x.detach().requires_grad_(with_dx), bias.detach().requires_grad_()
    y = operator(x, bias, None, state(), p=p, bias_dim=bias_dim, **options)
    return torch.autograd.grad(y, (bias, x) if with_dx else bias, dy)[0]


def operands(shape, bias_dim, dtype, bias_dtype=None, memory_format=torch.contiguous_format):
    """x, the bias, and an upstream gradient that is nowhere constant and has a mean."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype).to(memory_format=memory_format)
    dy = (0.3 + torch.randn(shape, generator=generator)).to(dtype)
    return x, torch.zeros(shape[bias_dim], dtype=bias_dtype or dtype), dy


def sums_of(x, bias, dy, bias_dim, p):
    """The exact gradient, that of the unfused operators, and the unit of their errors."""
    others = [dim for dim in range(x.dim()) if dim != bias_dim % x.dim()]
    scale = reference.scale(p)
    kept = FF.dropout_mask(x.shape, p, state(), like=x)
    terms = torch.where(kept, dy.double() * scale, 0)
    exact = terms.sum(others)
    by_torch = torch.where(kept, scale * dy, 0).sum(others).to(bias.dtype)
    size = torch.maximum(terms.square().sum(others).sqrt(), exact.abs())
    return exact, by_torch, ulp(size, torch.promote_types(x.dtype, torch.float32))


def check(shape, bias_dim, dtype, p=0.5, bias_dtype=None, memory_format=torch.contiguous_format):
    x, bias, dy = operands(shape, bias_dim, dtype, bias_dtype, memory_format)
    exact, by_torch, unit = sums_of(x, bias, dy, bias_dim, p)
    free = 16 if dtype == torch.float64 else 4
    allowed = 2 * (by_torch - exact).abs().max() + ulp(exact, bias.dtype) + free * unit
    for with_dx in (False, True):
        dbias = gradient_of_bias(x, bias, dy, bias_dim, p, with_dx=with_dx)
        assert dbias.dtype == bias.dtype
        assert float(((dbias - exact).abs() / allowed).max()) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", ROWS, ids=str)
def test_rows(shape, p, dtype):
    check(shape, -1, dtype, p)


@pytest.mark.parametrize("shape", [(65536, 31), (3, 70001), (40, 20000), (1000, 7)], ids=str)
def test_rows_on_every_instruction_set(capability, shape):
    check(shape, -1, torch.float16, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", PANELS, ids=str)
def test_panels(shape, dtype, threads):
    check(shape, -1, dtype, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inner_sizes(capability, dtype):
    for shape in INNER:
        check(shape, 1, dtype, 0.1)


MANY = {
    "rows": [(rows, 33) for rows in range(40, 1000, 40)],
    "inner": [(9, 5, inner) for inner in range(1, 64)],
    "runs": [(9, 5, inner) for inner in range(64, 2000, 30)],
}


@pytest.mark.parametrize("shapes", MANY.values(), ids=MANY)
def test_fp32_errors_are_at_most_twice_those_of_torch(capability, shapes):
    """Root mean square over many sums, in ULP."""
    ours, torchs = [], []
    for shape in shapes:
        x, bias, dy = operands(shape, 1, torch.float32)
        exact, by_torch, unit = sums_of(x, bias, dy, 1, 0.1)
        ours.append((gradient_of_bias(x, bias, dy, 1, 0.1) - exact) / unit)
        torchs.append((by_torch - exact) / unit)
    ratio = torch.cat(ours).square().mean().sqrt() / torch.cat(torchs).square().mean().sqrt()
    assert float(ratio) <= 2


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_convolutions(shape, dtype, memory_format):
    check(shape, 1, dtype, 0.1, memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape, bias_dim", [((65536, 33), -1), ((8, 5, 90, 90), 1)], ids=str)
def test_bias_in_fp32_has_an_fp32_gradient(dtype, shape, bias_dim):
    """Its error is that of fp32 sums, far below the half ULP that a 16-bit bias costs."""
    check(shape, bias_dim, dtype, 0.1, bias_dtype=torch.float32)
    x, bias, dy = operands(shape, bias_dim, dtype, torch.float32)
    dbias = gradient_of_bias(x, bias, dy, bias_dim, 0.1)
    assert not torch.equal(dbias.to(dtype).float(), dbias)
    exact, _, _ = sums_of(x, bias, dy, bias_dim, 0.1)
    assert (dbias - exact).abs().max() < 1e-6 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape, bias_dim",
    [
        ((65536, 33), -1),
        ((3, 70001), -1),
        ((40, 20000), -1),
        ((8, 64, 56, 56), 1),
        ((8, 30, 7, 9), 1),
    ],
    ids=str,
)
def test_the_same_bits_on_every_run(capability, dtype, shape, bias_dim):
    x, bias, dy = operands(shape, bias_dim, dtype, torch.float32)
    runs = []
    for count in (1, 2, 2, 1):
        with thread_count(count):
            runs.append(gradient_of_bias(x, bias, dy, bias_dim, activation="silu"))
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.parametrize("shape, bias_dim", [((4096, 33), -1), ((8, 30, 20, 20), 1)], ids=str)
def test_instruction_sets_differ_by_rounding_only(shape, bias_dim):
    x, bias, dy = operands(shape, bias_dim, torch.float32)
    results = []
    for name in CAPABILITIES:
        with forced(name):
            results.append(gradient_of_bias(x, bias, dy, bias_dim, activation="gelu"))
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_sums_what_dx_is(capability, activation):
    """Through an activation too, the sum is that of dx, whose mask test_masks.py knows."""
    x, bias, dy = operands((2000, 70), -1, torch.float64)
    x.requires_grad_()
    bias.requires_grad_()
    y = operator(x, bias, None, state(), p=0.1, activation=activation)
    dx, dbias = torch.autograd.grad(y, (x, bias), dy)
    torch.testing.assert_close(dbias, dx.sum(0), rtol=1e-12, atol=1e-11)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(65536, 1000), (8192, 8191), (1000000, 3)], ids=str)
def test_many_rows(shape, p, dtype):
    check(shape, -1, dtype, p)
