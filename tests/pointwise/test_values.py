"""`residual + drop(act(x + bias))`, forward and backward, against torch.

The exact result is that of the unfused PyTorch operators in float64, with the same inputs and mask.
Tolerance: the largest error over a tensor is at most twice that of the unfused operators in the
tensor's own dtype. Free
on top of that are one ULP of each exact element, and for the bias gradient four ULP (in fp32) of
the sum or of the Euclidean norm of its terms, whichever is larger, as the error of so few sums is a
matter of luck. In float64 there is nothing more exact to compare with; 32 ULP of the tensor's
largest value (at least 1) are allowed, as the derivative of torch's own gelu_tanh is off by 22.

16-bit results are in addition held to what the kernels promise: one rounding, at the store.
"""

import functools
import itertools
from dataclasses import dataclass

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import ACTIVATIONS, DTYPES, ORDERS, in_order, operator, state, thread_count, ulp

P = 0.3


@dataclass(frozen=True)
class Case:
    """One call. Operands are "none", "same" (as x), or a dtype's name."""

    shape: tuple
    dtype: torch.dtype
    activation: str = "gelu"
    bias: str = "same"
    residual: str = "none"
    bias_dim: int = -1
    order: tuple | None = None  # of the dimensions in memory
    mode: str = "inverted"
    training: bool = True
    negative_slope: float | None = None
    alpha: float | None = None
    p: float = P

    def options(self):
        names = ("activation", "bias_dim", "mode", "training", "negative_slope", "alpha", "p")
        return {name: getattr(self, name) for name in names}


def operand_dtype(case, kind):
    return case.dtype if kind == "same" else getattr(torch, kind)


def inputs_of(case):
    """x, bias, residual and the upstream gradient; None where there is none."""
    generator = torch.Generator().manual_seed(len(case.shape))

    def normal(shape, spread, dtype):
        return (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

    order = case.order or tuple(range(len(case.shape)))
    x = in_order(case.shape, order, case.dtype)
    x.copy_(normal(case.shape, 2, case.dtype))
    bias = residual = None
    if case.bias != "none":
        bias = normal(case.shape[case.bias_dim], 1, operand_dtype(case, case.bias))
    if case.residual != "none":
        residual = normal(case.shape, 1, operand_dtype(case, case.residual))
    y_dtype = case.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    return x, bias, residual, normal(case.shape, 1, y_dtype)


def unfused(case, x, bias, residual, kept):
    """The unfused PyTorch operators, each of which rounds to the dtype of x."""
    z = x
    if bias is not None:
        dim = case.bias_dim % x.dim()
        z = x + bias.to(x.dtype).view(-1, *[1] * (x.dim() - 1 - dim))
    v = reference.activation(case.activation, z, case.negative_slope, case.alpha)
    if case.training:
        a, c, d = reference.constants(case.p, case.mode)
        v = torch.where(kept, a * v if c == 0 else a * v + c, d)
    elif case.mode == "classic":
        v = v * (reference.keep_count(case.p) / 65536)
    return v if residual is None else residual + v


def with_gradients(function, x, bias, residual, dy):
    """The result and the gradients of the operands that there are."""
    leaves = [
        t.detach().clone().requires_grad_() if t is not None else None for t in (x, bias, residual)
    ]
    y = function(*leaves)
    gradients = torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], dy)
    return [y.detach(), *gradients]


@functools.lru_cache(maxsize=4096)
def expected(case):
    """The unfused result in float64 and in the case's dtype; the same for every instruction set."""
    x, bias, residual, dy = inputs_of(case)
    kept = reference.dropout_mask(case.shape, case.p, state(), like=x)

    def function(*operands):
        return unfused(case, *operands, kept)

    double = [None if t is None else t.double() for t in (x, bias, residual, dy)]
    return with_gradients(function, *double), with_gradients(function, x, bias, residual, dy)


def actual(case):
    x, bias, residual, dy = inputs_of(case)

    def function(*operands):
        return operator(*operands, state(), **case.options())

    return with_gradients(function, x, bias, residual, dy)


def sum_unit(case, terms):
    """What one ULP of a sum's terms taken together is; `terms` is the exact dx."""
    if case.shape == () or terms.numel() == 0:
        return 0.0
    others = [dim for dim in range(terms.dim()) if dim != case.bias_dim % terms.dim()]
    size = terms.abs()
    if others:
        size = torch.maximum(terms.square().sum(others).sqrt(), terms.sum(others).abs())
    return ulp(size, torch.promote_types(case.dtype, torch.float32))


def excess(case, result, by_torch, exact, free=0.0):
    """The largest error in units of what is allowed: up to 1 is fine."""
    if exact.numel() == 0:
        return 0.0
    if case.dtype == result.dtype == torch.float64:
        allowed = 32 * ulp(exact.abs().max().clamp(min=1), torch.float64) + free
    else:
        # Another operand in float64 does not make the arithmetic that.
        dtype = case.dtype if result.dtype == torch.float64 else result.dtype
        allowed = 2 * (by_torch - exact).abs().max() + ulp(exact, dtype) + free
    return float(((result - exact).abs() / allowed).max())


def check(case):
    exact, by_torch = expected(case)
    results = actual(case)
    names = ["y", "dx", *["dbias"] * (case.bias != "none"), *["dresidual"] * 2]
    wrong = {}
    for name, result, other, truth in zip(names, results, by_torch, exact, strict=False):
        assert result.shape == truth.shape
        if name in ("dx", "dbias", "dresidual"):
            assert result.dtype == other.dtype
        free = 4 * sum_unit(case, exact[1]) if name == "dbias" else 0.0
        if (error := excess(case, result, other, truth, free)) > 1:
            wrong[name] = error
    assert not wrong
    x, _, residual, dy = inputs_of(case)
    y_dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
    assert results[0].dtype == y_dtype
    if x.numel():
        assert results[0].stride() == torch.empty_like(x).stride()
        assert results[1].stride() == torch.empty_like(x).stride()
    if residual is not None:
        assert torch.equal(results[-1], dy.to(residual.dtype))
    return results


# ---------------------------------------------------------------- every kernel

CHANNELS_LAST = ORDERS["channels_last"]
SHAPES = [
    ((1, 1), -1, None),
    ((3, 7), -1, None),
    ((8, 64), -1, None),
    ((5, 257), -1, None),
    ((33, 31), -1, None),
    ((33, 31), 0, None),
    ((2, 3, 5, 7), 1, None),
    ((2, 3, 5, 7), 1, CHANNELS_LAST),
    ((2, 3, 5, 7), 2, ORDERS["permuted"]),
    ((4, 6, 9, 9), 1, None),  # long runs of one channel
    ((2, 128, 70), 1, None),
    ((2, 128, 70), -1, None),
]


def name_of(shape_case):
    shape, dim, order = shape_case
    return "x".join(map(str, shape)) + f"-dim{dim}" + ("-permuted" if order else "")


OPERANDS = ("none", "same", "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_kernel(capability, activation, dtype):
    """Of an activation, a dtype and a kind of residual; with rows of a bias and with channels."""
    for residual in OPERANDS:
        check(Case((5, 257), dtype, activation, residual=residual))
        check(Case((2, 3, 9, 7), dtype, activation, "same", residual, 1, CHANNELS_LAST))
        check(Case((4, 6, 9, 9), dtype, activation, "same", residual, 1))


@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_shape(capability, dtype, shape):
    shape, bias_dim, order = shape
    for activation in ("identity", "relu", "gelu"):
        check(Case(shape, dtype, activation, bias_dim=bias_dim, order=order))


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_and_modes(capability, dtype, mode, training):
    for activation, bias, residual in itertools.product(
        ("identity", "relu", "gelu"), OPERANDS, OPERANDS
    ):
        if dtype == torch.float64 and "float32" in (bias, residual):
            continue
        for shape, bias_dim in [((5, 257), -1), ((2, 3, 8, 9), 1)]:
            check(Case(shape, dtype, activation, bias, residual, bias_dim, None, mode, training))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operand", ["float64", "float32", "float16", "bfloat16"])
def test_mixed_dtypes(capability, dtype, operand):
    """Dtypes without a kernel of their own: the wider of x and the residual is the result's."""
    for activation in ("identity", "relu", "gelu"):
        check(Case((5, 257), dtype, activation, bias=operand))
        check(Case((5, 257), dtype, activation, residual=operand))
        check(Case((2, 3, 8, 9), dtype, activation, operand, operand, 1, CHANNELS_LAST))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "activation, parameters",
    [
        *(("leaky_relu", {"negative_slope": slope}) for slope in (0.2, -0.5, 0.0, 3.0)),
        *(("elu", {"alpha": alpha}) for alpha in (0.5, 2.0)),
    ],
    ids=str,
)
def test_parameters(capability, activation, parameters, dtype):
    check(Case((5, 257), dtype, activation, **parameters))
    check(Case((4, 6, 9, 9), dtype, activation, bias_dim=1, residual="same", **parameters))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 4), (1, 1, 1)], ids=str)
def test_degenerate_shapes(capability, dtype, shape):
    for activation, residual in itertools.product(("identity", "relu", "gelu"), OPERANDS[:2]):
        bias = "same" if shape else "none"
        check(Case(shape, dtype, activation, bias, residual))
        if len(shape) == 3:
            check(Case(shape, dtype, activation, bias, residual, bias_dim=1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_every_permutation(capability, dtype, order):
    for bias_dim in range(3):
        check(Case((6, 70, 5), dtype, "silu", "same", "same", bias_dim, order))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, bias_dim", [((300, 401), -1), ((3, 20, 45, 45), 1)], ids=str)
def test_two_threads_compute_the_same_bits(capability, dtype, shape, bias_dim):
    case = Case(shape, dtype, "gelu", "same", "same", bias_dim)
    with thread_count(1):
        one = actual(case)
    with thread_count(2):
        two = check(case)
    assert all(map(torch.equal, one, two))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("residual", OPERANDS[:2])
@pytest.mark.parametrize("bias", OPERANDS)
@pytest.mark.parametrize("mode", FF.MODES)
def test_sixteen_bit_results_are_rounded_once(capability, dtype, mode, bias, residual):
    """Rounding the bias, the scale or the branch too would cost up to half an ULP of that."""
    for activation in ("identity", "gelu", "tanh"):
        case = Case((33, 127), dtype, activation, bias, residual, mode=mode)
        exact, _ = expected(case)
        for result, truth in list(zip(actual(case), exact, strict=True))[:2]:
            # 1e-5: what fp32 arithmetic in Reduced precision may lose where terms cancel
            allowed = 0.501 * ulp(truth, dtype) + 1e-5
            assert ((result - truth).abs() <= allowed).all()


# ---------------------------------------------------------------- upstream gradients of any layout


@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_of_the_upstream_gradient(capability, dtype):
    case = Case((6, 20, 5, 7), dtype, "gelu", bias_dim=1)
    x, bias, _, dy = inputs_of(case)
    x.requires_grad_()
    bias.requires_grad_()
    y = operator(x, bias, None, state(), **case.options())

    def gradients(upstream):
        return torch.autograd.grad(y, (x, bias), upstream, retain_graph=True)

    wanted = gradients(dy)
    stepped = torch.stack([dy, dy], -1)[..., 0]
    for upstream in (dy.contiguous(memory_format=torch.channels_last), stepped):
        for got, want in zip(gradients(upstream), wanted, strict=True):
            assert torch.equal(got, want)
            assert got.stride() == want.stride()
    ones = gradients(torch.ones_like(dy))
    for got, want in zip(gradients(torch.ones((), dtype=dtype).expand_as(dy)), ones, strict=True):
        assert torch.equal(got, want)


# ---------------------------------------------------------------- operands that are not dense


def strided(kind, x):
    """The values of `x` in another kind of memory."""
    if kind == "sliced":
        buffer = torch.empty([size + 3 for size in x.shape], dtype=x.dtype)
        return buffer[tuple(slice(1, 1 + size) for size in x.shape)].copy_(x)
    if kind == "stepped":
        return torch.stack([x, -x], -1).flatten(-2)[..., ::2]
    if kind == "reversed memory":
        dims = tuple(range(x.dim()))[::-1]
        return x.permute(dims).contiguous().permute(dims)
    return x.contiguous()


KINDS = ("sliced", "stepped", "reversed memory")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_that_are_not_contiguous(capability, dtype, kind):
    """They give the bits that dense ones give."""
    case = Case((6, 20, 5, 7), dtype, "gelu", "same", "same", 1)
    x, bias, residual, dy = inputs_of(case)

    def function(*operands):
        return operator(*operands, state(), **case.options())

    def run(x, bias, residual, dy):
        leaves = [t.detach().requires_grad_() for t in (x, bias, residual)]
        y = function(*leaves)
        return [y, *torch.autograd.grad(y, leaves, dy)]

    wanted = run(x, bias, residual, dy)
    others = [(x, strided(kind, bias), strided(kind, residual), strided(kind, dy))]
    if kind != "reversed memory":  # the order of memory decides about the mask
        others += [(strided(kind, x), bias, residual, dy)]
    for operands in others:
        for got, want in zip(run(*operands), wanted, strict=True):
            assert torch.equal(got, want)


def test_an_expanded_x(capability):
    x = torch.randn(5, 1, 7).expand(5, 40, 7)
    y = operator(x, None, None, state(), p=P, activation="gelu")
    assert torch.equal(y, operator(x.contiguous(), None, None, state(), p=P, activation="gelu"))


# ---------------------------------------------------------------- no elements


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (2, 0, 4)])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_empty_tensors(shape, residual, activation):
    """An empty batch trains: nothing is drawn, and the gradient of the bias is zero."""
    x, bias = torch.ones(shape, requires_grad=True), torch.ones(shape[-1], requires_grad=True)
    added = torch.ones(shape, requires_grad=True) if residual else None
    before = torch.get_rng_state()
    y = FF.bias_act_dropout(x, bias, 0.5, activation, residual=added)
    y.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)
    assert y.shape == x.grad.shape == shape
    assert torch.equal(bias.grad, torch.zeros_like(bias))
    if residual:
        assert added.grad.shape == shape
    tangent = torch.func.jvp(
        lambda one: FF.bias_act_dropout(one, bias.detach(), 0.5, activation),
        (x.detach(),), (torch.ones(shape),),
    )[1]  # fmt: skip
    assert tangent.shape == shape
