"""Errors of x, bias, residual, rng_state and generator."""

import re

import pytest
import torch

import fused_dropout.functional as FF
from tests.errors.bad_input import FUNCTIONS, X, check, check_named, dropout_, every_function
from tests.module_helpers import drawing_nothing, fixed_state

with_bias = pytest.mark.parametrize("name", ["bias_act_dropout", "bias_dropout_add"])


@every_function
@pytest.mark.parametrize(
    "dtype",
    [
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    ],
)
def test_dtype_of_x(name, dtype):
    check_named(
        name,
        RuntimeError,
        ["x has dtype", "expected float32, float64, float16 or bfloat16"],
        torch.ones(4, 6).to(dtype),
    )


@every_function
def test_dtype_of_x_names_it(name):
    check_named(name, RuntimeError, ["x has dtype Long"], X.long())
    check_named(name, RuntimeError, ["x has dtype ComplexFloat"], X + 0j)


@every_function
@pytest.mark.parametrize("x", [[1.0, 2.0], None, 3.0])
def test_x_is_no_tensor(name, x):
    with drawing_nothing(), pytest.raises((TypeError, AttributeError)):
        FUNCTIONS[name](x)


def test_inplace_on_overlapping_memory():
    """As in torch, and without a draw."""
    x = torch.ones(4, 1).expand(4, 6)
    with drawing_nothing(), pytest.raises(RuntimeError, match="single memory location"):
        dropout_(x)


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("shared_dims", [3, iter([1])])
def test_shared_dims_of_a_subclass_are_checked(shared_dims):
    with drawing_nothing(), pytest.raises(TypeError, match=r"^dropout: shared_dims is of type"):
        FF.dropout(X.as_subclass(Subclass), shared_dims=shared_dims)


def test_tensor_subclasses_are_checked_before_the_draw_too():
    """They go another way, through `torch.ops`."""
    x = X.as_subclass(Subclass)
    for call in (
        lambda: FF.bias_act_dropout(x, torch.zeros(5)),
        lambda: FF.bias_act_dropout(x, activation="swish"),
        lambda: FF.dropout(x, shared_dims=(2,)),
        lambda: FF.dropout(x.clone().requires_grad_(), inplace=True),
    ):
        with drawing_nothing(), pytest.raises((RuntimeError, ValueError, IndexError)):
            call()


@with_bias
@pytest.mark.parametrize("size", [0, 1, 5, 24])
def test_length_of_bias(name, size):
    check_named(
        name,
        RuntimeError,
        [f"bias has {size} elements", "x has 6 along dimension -1"],
        bias=torch.zeros(size),
    )


@with_bias
@pytest.mark.parametrize("bias_dim", [0, -2])
def test_length_of_bias_along_another_dimension(name, bias_dim):
    check_named(
        name,
        RuntimeError,
        ["bias has 6 elements", f"x has 4 along dimension {bias_dim}"],
        bias=torch.zeros(6),
        bias_dim=bias_dim,
    )


@with_bias
@pytest.mark.parametrize("shape", [(), (1, 6), (4, 6)])
def test_dimensions_of_bias(name, shape):
    check_named(
        name,
        RuntimeError,
        [f"bias has {len(shape)} dimensions", "expected 1"],
        bias=torch.zeros(shape),
    )


@with_bias
@pytest.mark.parametrize("bias_dim", [2, -3, 100])
def test_bias_dim_out_of_range(name, bias_dim):
    check_named(
        name,
        IndexError,
        ["bias_dim", bias_dim, "x has 2 dimensions"],
        bias=torch.zeros(6),
        bias_dim=bias_dim,
    )


@with_bias
def test_bias_of_a_scalar(name):
    check_named(
        name,
        IndexError,
        ["bias_dim", -1, "x has 0 dimensions"],
        torch.tensor(1.0),
        bias=torch.zeros(1),
        residual=torch.tensor(1.0),
    )


OPERANDS = {"bias": (6,), "residual": (4, 6)}


@with_bias
@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_dtype_of_operands(name, operand, dtype):
    value = torch.ones(OPERANDS[operand]).to(dtype)
    check_named(name, RuntimeError, [f"{operand} has dtype", "expected"], **{operand: value})


@with_bias
@pytest.mark.parametrize("operand", OPERANDS)
def test_device_of_operands(name, operand):
    value = torch.ones(OPERANDS[operand], device="meta")
    check_named(name, RuntimeError, [f"{operand} is on meta", "x is on cpu"], **{operand: value})


@with_bias
def test_device_of_x(name):
    with drawing_nothing(), pytest.raises(RuntimeError, match="is on cpu, but x is on meta"):
        FUNCTIONS[name](X.to("meta"), bias=torch.zeros(6))
    with drawing_nothing(), pytest.raises(RuntimeError, match="rng_state is on cpu, but x is on m"):
        FUNCTIONS[name](X.to("meta"), residual=X.to("meta"), rng_state=fixed_state())


@with_bias
@pytest.mark.parametrize("shape", [(4, 5), (1, 6), (4, 1), (6, 4), (0, 6)])
def test_shape_of_residual(name, shape):
    check_named(
        name,
        RuntimeError,
        [f"residual has shape {list(shape)}", "x has [4, 6]"],
        residual=torch.zeros(shape),
    )


@with_bias
@pytest.mark.parametrize("shape", [(), (6,), (1, 4, 6)])
def test_dimensions_of_residual(name, shape):
    check_named(
        name,
        RuntimeError,
        [f"residual has {len(shape)} dimensions", "x has 2"],
        residual=torch.zeros(shape),
    )


def test_bias_dropout_add_needs_its_operands():
    with drawing_nothing(), pytest.raises(TypeError, match="residual"):
        FF.bias_dropout_add(X, None)


@every_function
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.float64, torch.uint64])
def test_dtype_of_rng_state(name, dtype):
    check_named(
        name,
        TypeError,
        ["rng_state has dtype", "expected int64"],
        rng_state=torch.zeros(2, dtype=dtype),
    )


@every_function
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (1, 2), (2, 2)])
def test_shape_of_rng_state(name, shape):
    came = f"{shape[0]} elements" if len(shape) == 1 else f"{len(shape)} dimensions"
    check_named(
        name,
        RuntimeError,
        [f"rng_state has {came}", "expected"],
        rng_state=torch.zeros(shape, dtype=torch.int64),
    )


@every_function
def test_device_of_rng_state(name):
    check_named(
        name,
        RuntimeError,
        ["rng_state is on meta", "x is on cpu"],
        rng_state=fixed_state().to("meta"),
    )


@every_function
@pytest.mark.parametrize("offset", [-4, -1, 1, 2, 3, 5, 6, -(1 << 63), (1 << 63) - 1])
def test_offset_of_rng_state(name, offset):
    text = check(
        name,
        ValueError,
        [f"rng_state has offset {offset}", "expected a multiple of 4"],
        rng_state=torch.tensor([1, offset]),
    )
    # The numbers are read where they lie, by the operator, which is named.
    assert re.match(r"\w*dropout\w*: rng_state", text), text


@every_function
@pytest.mark.parametrize("p", [1e-10, 1 - 1e-10])
def test_offset_is_checked_where_all_elements_share_one_fate(name, p):
    check(name, ValueError, ["rng_state has offset 2"], p=p, rng_state=torch.tensor([1, 2]))


@every_function
@pytest.mark.parametrize("rng_state", [(1, 0), [1, 0], 7])
def test_rng_state_is_no_tensor(name, rng_state):
    check(name, TypeError, [], rng_state=rng_state)


@every_function
@pytest.mark.parametrize("generator", ["cpu", 7, torch.zeros(2)])
def test_generator_is_none(name, generator):
    check(name, TypeError, [], generator=generator)


@every_function
@pytest.mark.parametrize("training, p", [(True, 1.0), (False, 0.5)])
def test_rng_state_is_checked_where_nothing_is_drawn(name, training, p):
    """But for the early returns of `dropout`, which give the input back unseen."""
    if name.startswith("dropout") and not training:
        return
    state = torch.zeros(3, dtype=torch.int64)
    check_named(
        name, RuntimeError, ["rng_state has 3 elements"], p=p, training=training, rng_state=state
    )
