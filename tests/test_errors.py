"""Bad input: the message, that nothing is computed, and that no random number is consumed."""

import math
import re
import subprocess
import sys

import pytest
import torch
from module_helpers import drawing_nothing, fixed_state

import fused_dropout as fd
import fused_dropout.functional as FF

X = torch.randn(4, 6)


def dropout_(x, p=0.5, **options):
    return FF.dropout(x, p, inplace=True, **options)


def bias_act_dropout(x, p=0.5, **options):
    return FF.bias_act_dropout(x, options.pop("bias", None), p, **options)


def bias_dropout_add(x, p=0.5, **options):
    return FF.bias_dropout_add(
        x, options.pop("bias", None), options.pop("residual", torch.zeros(4, 6)), p, **options
    )


FUNCTIONS = {
    "dropout": FF.dropout,
    "dropout_": dropout_,
    "bias_act_dropout": bias_act_dropout,
    "bias_dropout_add": bias_dropout_add,
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
with_bias = pytest.mark.parametrize("name", ["bias_act_dropout", "bias_dropout_add"])
with_options = pytest.mark.parametrize("name", ["bias_act_dropout"])


def check(name, error, parts, x=X, **options):
    """One call: the error's type, the name in front, and every part in the text, in order."""
    x = x.clone()
    before, version = x.clone(), x._version
    with drawing_nothing(), pytest.raises(error) as caught:
        FUNCTIONS[name](x, **options)
    text = str(caught.value).split("\n")[0]
    pattern = ".*".join(re.escape(str(part)) for part in parts)
    assert re.search(pattern, text), text
    assert x._version == version
    if x.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        assert torch.equal(x, before)
    return text


def check_named(name, error, parts, x=X, **options):
    """As check, and the text begins with the function that was called."""
    text = check(name, error, parts, x, **options)
    assert text.startswith(f"{name.rstrip('_')}: "), text


# ---------------------------------------------------------------- the probability


@every_function
@pytest.mark.parametrize("p", [-0.1, 1.5, 2, -math.inf, math.nan])
@pytest.mark.parametrize("training", [True, False])
def test_p_out_of_range(name, p, training):
    text = check(name, ValueError, [], p=p, training=training)
    assert text == f"dropout probability has to be between 0 and 1, but got {p}"


@every_function
@pytest.mark.parametrize("p", [-0.5, 1.5, math.nan])
def test_p_out_of_range_in_a_tensor(name, p):
    check(name, ValueError, ["between 0 and 1, but got", p], p=torch.tensor(p))


@every_function
@pytest.mark.parametrize("p", ["0.5", None, [0.5]])
def test_p_is_no_number(name, p):
    check(name, TypeError, [], p=p)


@every_function
def test_p_requires_grad(name):
    p = torch.tensor(0.5, requires_grad=True)
    check(name, TypeError, ["probability p", "constant", "requires grad"], p=p)


@every_function
def test_p_has_a_dimension(name):
    check(name, TypeError, ["probability p", "scalar", "(3,)"], p=torch.rand(3))


@every_function
@pytest.mark.parametrize("p", [-0.5, math.nan, 1.5])
def test_operators_check_p_too(name, p):
    operator = torch.ops.fused_dropout
    x = X.clone()
    with pytest.raises(ValueError, match=f"but got {p}"):
        if name == "dropout_":
            operator.dropout_(x, fixed_state(), p, None, "inverted", True, [], None, 0)
        else:
            operator.bias_act_dropout(
                x,
                None,
                None,
                fixed_state(),
                p,
                None,
                "relu",
                None,
                None,
                -1,
                "inverted",
                True,
                [],
                None,
                0,
            )
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "p", [torch.tensor(0.5), torch.tensor(1), torch.tensor([0.5], dtype=torch.float64)]
)
def test_tensor_p_of_the_operators(p):
    """Python converts it for them."""
    with pytest.raises(TypeError, match=r"dropout_: p .*expected a 0-d float64 tensor on the CPU"):
        torch.ops.fused_dropout.dropout_(
            X.clone(), fixed_state(), 0.5, p, "inverted", True, [], None, 0
        )


# ---------------------------------------------------------------- x


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


# ---------------------------------------------------------------- the activation


@with_options
@pytest.mark.parametrize("activation", ["GELU", "swish", ""])
@pytest.mark.parametrize("options", [{}, {"p": 0.0}, {"training": False}])
def test_unknown_activation_lists_the_known(name, activation, options):
    check_named(
        name,
        ValueError,
        [f"activation is '{activation}'", "expected one of", *FF.ACTIVATIONS],
        activation=activation,
        **options,
    )


@with_options
def test_activation_is_no_name(name):
    check(name, TypeError, [], activation=torch.nn.GELU())


@with_options
@pytest.mark.parametrize("activation", [one for one in FF.ACTIVATIONS if one != "leaky_relu"])
def test_negative_slope_belongs_to_leaky_relu(name, activation):
    check_named(
        name,
        ValueError,
        ["negative_slope is 0.2", f"'{activation}'"],
        activation=activation,
        negative_slope=0.2,
    )


@with_options
@pytest.mark.parametrize("activation", [one for one in FF.ACTIVATIONS if one != "elu"])
def test_alpha_belongs_to_elu(name, activation):
    check_named(
        name, ValueError, ["alpha is 0.2", f"'{activation}'"], activation=activation, alpha=0.2
    )


# ---------------------------------------------------------------- bias and residual


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


# ---------------------------------------------------------------- rng_state and generator


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


# ---------------------------------------------------------------- shared dimensions and mode


@every_function
@pytest.mark.parametrize("dims", [(2,), (-3,), (0, 5)])
def test_shared_dims_out_of_range(name, dims):
    check_named(
        name, IndexError, ["shared_dims has", dims[-1], "x has 2 dimensions"], shared_dims=dims
    )


@every_function
@pytest.mark.parametrize("dims", [(1, 1), (1, -1), (0, 1, -2)])
def test_shared_dims_repeated(name, dims):
    check_named(name, ValueError, ["shared_dims", dims[-1], "twice"], shared_dims=dims)


@every_function
@pytest.mark.parametrize("dims", [1, (0.5,), "01", None])
def test_shared_dims_are_no_integers(name, dims):
    check(name, TypeError, [], shared_dims=dims)


@every_function
@pytest.mark.parametrize("shape", [(), (4,), (1, 4, 6)])
def test_rank_of_noise_shape(name, shape):
    check_named(
        name,
        ValueError,
        [f"noise_shape has {len(shape)} entries", "x has 2 dimensions"],
        noise_shape=shape,
    )


@every_function
@pytest.mark.parametrize("shape, dim, entry", [((2, 6), 0, 2), ((None, 0), 1, 0), ((4, -1), 1, -1)])
def test_entries_of_noise_shape(name, shape, dim, entry):
    check_named(
        name,
        ValueError,
        [f"noise_shape has {entry} in dimension {dim}", "expected", X.shape[dim]],
        noise_shape=shape,
    )


@every_function
def test_shared_dims_and_noise_shape(name):
    check_named(
        name,
        ValueError,
        ["shared_dims is (0,)", "noise_shape is (1, None)", "only one"],
        shared_dims=(0,),
        noise_shape=(1, None),
    )


@every_function
@pytest.mark.parametrize("mode", ["Inverted", "", "scale"])
def test_unknown_mode(name, mode):
    check_named(name, ValueError, [f"mode is '{mode}'", *FF.MODES], mode=mode)


@pytest.mark.parametrize("options", [{"p": 0.0}, {"training": False}])
def test_dropout_checks_the_mode_before_it_returns_its_input(options):
    check_named("dropout", ValueError, ["mode is 'scale'"], mode="scale", **options)


# ---------------------------------------------------------------- dropout_mask and new_rng_state


@pytest.mark.parametrize(
    "error, text, arguments, options",
    [
        (ValueError, "between 0 and 1, but got 2", ((4, 6), 2, fixed_state()), {}),
        (TypeError, "dropout_mask: rng_state has dtype Int", ((4,), 0.5, fixed_state().int()), {}),
        (RuntimeError, "dropout_mask: rng_state has 1 element", ((4,), 0.5, fixed_state()[:1]), {}),
        (ValueError, "rng_state has offset 2", ((4,), 0.5, fixed_state(1, 2)), {}),
        (ValueError, r"like has shape \(4, 6\)", ((6, 4), 0.5, fixed_state()), {"like": X}),
        (IndexError, "shared_dims has 2", ((4, 6), 0.5, fixed_state()), {"shared_dims": (2,)}),
        (ValueError, "twice", ((4, 6), 0.5, fixed_state()), {"shared_dims": (1, -1)}),
    ],
)
def test_dropout_mask(error, text, arguments, options):
    with drawing_nothing(), pytest.raises(error, match=text):
        FF.dropout_mask(*arguments, **options)


def test_new_rng_state():
    with drawing_nothing(), pytest.raises((TypeError, RuntimeError)):
        fd.new_rng_state(generator="cpu")
    with drawing_nothing(), pytest.raises(RuntimeError):
        fd.new_rng_state("nowhere")


# ---------------------------------------------------------------- operators

# Arguments of operators that autograd always gets right, but that anyone can get wrong through
# torch.ops. Each case runs in a process of its own, because it may end it.
OPERATOR_CASES = """
import os
import torch
import fused_dropout

operators = torch.ops.fused_dropout
state, dy, x = torch.tensor([1, 0]), torch.randn(64, 6), torch.randn(64, 6)


def backward(act="identity", input=None, bias=None, from_output=False, strides=(6, 1),
             dtype=torch.float32, bias_dtype=None, mask=(True, False)):
    options = 0.5, None, act, None, None, -1, "inverted", True, [], None, 0
    gradient = from_output, list(strides), dtype, bias_dtype, list(mask)
    operators.bias_act_dropout_backward(dy, input, bias, state, *options, *gradient)


def mask(strides):
    operators.dropout_mask(state, [64, 64], strides, 0.5, [], None, 0)


cases = {
    "no input": lambda: backward("gelu"),
    "no output": lambda: backward("relu", from_output=True),
    "output of gelu": lambda: backward("gelu", x, from_output=True),
    "small input": lambda: backward("gelu", torch.randn(2, 2)),
    "input of other rank": lambda: backward("gelu", torch.randn(6)),
    "short bias": lambda: backward("gelu", x, torch.randn(5), bias_dtype=torch.float32),
    "bias gradient without dtype": lambda: backward(mask=(True, True)),
    "integer gradient": lambda: backward(dtype=torch.int64),
    "few strides": lambda: backward(strides=(6,)),
    "strides with gaps": lambda: backward(strides=(12, 2)),
    "strides that overlap": lambda: backward(strides=(1, 1)),
    "mask without strides": lambda: mask([1]),
    "mask that overlaps": lambda: mask([0, 0]),
}
for name, call in cases.items():
    pid = os.fork()
    if not pid:
        try:
            call()
        except (RuntimeError, ValueError, TypeError, IndexError):
            os._exit(0)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        print(name, "passes" if status == 1 else f"ends with signal {-status}", flush=True)
"""


def test_bad_arguments_of_operators_are_errors():
    done = subprocess.run(
        [sys.executable, "-c", OPERATOR_CASES], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


# ---------------------------------------------------------------- modules


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: fd.BiasActDropout(6, **options),
        lambda **options: fd.LinearActDropout(6, 6, **options),
        lambda **options: fd.MLP(6, 6, 6, **options),
    ],
)
def test_modules_check_when_they_are_made(make):
    for p in (-0.1, 2, math.nan):
        with pytest.raises(ValueError, match=f"between 0 and 1, but got {p}"):
            make(p=p)
    with pytest.raises(ValueError, match=r"Dropout: activation is 'swish', but expected.*gelu"):
        make(activation="swish")


@pytest.mark.parametrize("p", [-0.1, 2, math.nan])
def test_bias_dropout_add_module_checks_p(p):
    with pytest.raises(ValueError, match=f"between 0 and 1, but got {p}"):
        fd.BiasDropoutAdd(6, p=p)


def test_modules_check_what_comes():
    bias_act = fd.BiasActDropout(5)
    for training in (True, False):
        bias_act.train(training)
        with drawing_nothing(), pytest.raises(RuntimeError, match=r"bias has 5 elements.*has 6"):
            bias_act(X)
    with drawing_nothing(), pytest.raises(RuntimeError, match="residual has shape"):
        fd.BiasDropoutAdd(6)(X, X[:1])
    with drawing_nothing(), pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        bias_act.p = 2
        bias_act(X)


# ---------------------------------------------------------------- the compiler


@every_function
def test_generator_under_compile_names_rng_state(name):
    generator = torch.Generator()
    call = torch.compile(
        lambda x: FUNCTIONS[name](x, generator=generator), backend="eager", fullgraph=True
    )
    with drawing_nothing(), pytest.raises(Exception, match="rng_state="):
        call(X.clone())


@pytest.mark.parametrize(
    "name, options, error",
    [
        ("bias_act_dropout", {"activation": "swish"}, "activation is 'swish'"),
        ("bias_act_dropout", {"bias": torch.zeros(5)}, "bias has 5 elements, but x has 6"),
        ("dropout", {"shared_dims": (2,)}, "shared_dims has 2"),
        ("dropout", {"rng_state": torch.zeros(3, dtype=torch.int64)}, "rng_state has 3 elements"),
        ("dropout", {"p": 2.0}, "dropout probability has to be between 0 and 1"),
    ],
)
def test_messages_under_compile(name, options, error):
    torch._dynamo.reset()
    call = torch.compile(lambda x: FUNCTIONS[name](x, **options), backend="eager", fullgraph=True)
    with drawing_nothing(), pytest.raises(Exception, match=error):
        call(X.clone())
