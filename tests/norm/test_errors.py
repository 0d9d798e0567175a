"""Bad input of the row operators: an error that says what and both numbers, nothing drawn."""

import re

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing

X = torch.randn(4, 6)
R = torch.randn(4, 6)


def glu(x=X, bias=None, p=0.5, **options):
    return FF.bias_glu_dropout(x, bias, p, **options)


def layer(x=X, residual=R, **options):
    return FF.dropout_add_layer_norm(x, residual, **options)


def rms(x=X, residual=R, **options):
    return FF.dropout_add_rms_norm(x, residual, **options)


FUNCTIONS = {
    "bias_glu_dropout": glu,
    "dropout_add_layer_norm": layer,
    "dropout_add_rms_norm": rms,
}
NORMS = ["dropout_add_layer_norm", "dropout_add_rms_norm"]
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_norm = pytest.mark.parametrize("name", NORMS)


def check(name, error, parts, named=True, **options):
    """The error's type, the function in front, every part in order;
    either way to the operator."""
    for plain in (True, False):
        if not plain and "x" not in options:
            options = {**options, "x": X.as_subclass(Traced)}
        with drawing_nothing(), pytest.raises(error) as caught:
            FUNCTIONS[name](**options)
        text = str(caught.value).split("\n")[0]
        assert not named or text.startswith(f"{name}: "), text
        assert re.search(".*".join(re.escape(str(part)) for part in parts), text), text


class Traced(torch.Tensor):
    """Takes the way through torch.ops."""


@pytest.mark.parametrize("width", [1, 7, 101])
def test_an_odd_last_dimension(width):
    check("bias_glu_dropout", RuntimeError, ["x has", width, "even"], x=torch.randn(3, width))


@pytest.mark.parametrize("size", [3, 5, 12])
def test_a_bias_of_the_wrong_length(size):
    for name in FUNCTIONS:
        parts = ["bias has", size, "elements", "x has 6 along dimension -1"]
        check(name, RuntimeError, parts, bias=torch.zeros(size))


@pytest.mark.parametrize("argument", ["weight", "layer_scale"])
@every_norm
def test_vectors_of_the_wrong_length(name, argument):
    parts = [f"{argument} has 5 elements", "x has 6 along dimension -1"]
    check(name, RuntimeError, parts, **{argument: torch.zeros(5)})
    check(name, RuntimeError, [f"{argument} has 2 dimensions"], **{argument: torch.zeros(1, 6)})


def test_a_norm_bias_of_the_wrong_length():
    parts = ["norm_bias has 7 elements", "x has 6 along dimension -1"]
    check("dropout_add_layer_norm", RuntimeError, parts, norm_bias=torch.zeros(7))


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (6,), (4, 6, 1), (1, 6)], ids=str)
@every_norm
def test_a_residual_of_another_shape(name, shape):
    check(name, RuntimeError, ["residual has"], residual=torch.zeros(shape))
    if len(shape) == 2:
        parts = [f"residual has shape {list(shape)}", "x has [4, 6]"]
        check(name, RuntimeError, parts, residual=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(6,), (4, 1), (4, 6), ()], ids=str)
@every_norm
def test_a_row_scale_of_another_shape(name, shape):
    parts = [f"row_scale has shape {list(shape)}", "expected [4]"]
    check(name, RuntimeError, parts, row_scale=torch.zeros(shape))


@pytest.mark.parametrize("eps", [-1e-5, float("nan"), -float("inf")])
@every_norm
def test_eps(name, eps):
    check(name, ValueError, ["eps is", "expected a number from 0 on"], eps=eps)


@every_function
def test_no_dimension(name):
    options = {"x": torch.tensor(1.0)}
    if name in NORMS:
        options["residual"] = None
    check(name, RuntimeError, ["x has 0 dimensions", "at least 1"], **options)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
@every_function
def test_probability(name, p):
    parts = ["dropout probability has to be between 0 and 1, but got", p]
    check(name, ValueError, parts, named=False, p=p)


@every_function
def test_names(name):
    check(name, ValueError, ["activation is 'swish'", "gelu"], activation="swish")
    check(name, ValueError, ["mode is 'soft'", "inverted"], mode="soft")
    check(name, ValueError, ["alpha is", "takes none"], alpha=1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
@every_function
def test_dtypes(name, dtype):
    x = torch.zeros(4, 6, dtype=dtype)
    check(name, RuntimeError, ["x has dtype"], x=x)
    check(name, RuntimeError, ["bias has dtype"], bias=torch.zeros(6, dtype=dtype))
    if name in NORMS:
        check(name, RuntimeError, ["residual has dtype"], residual=x)
        check(name, RuntimeError, ["weight has dtype"], weight=torch.zeros(6, dtype=dtype))


@every_function
def test_devices(name):
    check(
        name, RuntimeError, ["bias is on meta", "x is on cpu"], bias=torch.zeros(6, device="meta")
    )
    if name in NORMS:
        for argument, shape in (("residual", (4, 6)), ("weight", 6), ("row_scale", 4)):
            tensor = torch.zeros(shape, device="meta")
            parts = [f"{argument} is on meta", "x is on cpu"]
            check(name, RuntimeError, parts, **{argument: tensor})


@every_function
def test_states(name):
    check(name, TypeError, ["rng_state has dtype"], rng_state=torch.zeros(2))
    state = torch.zeros(3, dtype=torch.int64)
    check(name, RuntimeError, ["rng_state has 3 elements"], rng_state=state)
    check(name, ValueError, ["offset 3", "multiple of 4"], rng_state=torch.tensor([1, 3]))


@every_function
def test_shared_dimensions(name):
    check(name, IndexError, ["shared_dims has 2", "x has 2 dimensions"], shared_dims=(2,))
    check(name, ValueError, ["shared_dims has dimension", "twice"], shared_dims=(0, -2))
    check(name, ValueError, ["only one of them"], shared_dims=(0,), noise_shape=(1, None))
    check(name, ValueError, ["noise_shape has 1 entries", "2 dimensions"], noise_shape=(1,))
    check(name, ValueError, ["noise_shape has 5", "expected 1, None"], noise_shape=(5, None))


def test_operators_refuse_it_too():
    options = (0.5, None, "identity", None, None, "inverted", True, [], None, 0)
    state = torch.tensor([1, 0])
    norm = torch.ops.fused_dropout.dropout_add_norm
    with pytest.raises(ValueError, match="norm is 'batch_norm'"):
        norm(X, None, None, None, None, None, None, state, "batch_norm", 1e-5, False, *options)
    with pytest.raises(ValueError, match="norm_bias is given, but RMSNorm has none"):
        norm(X, None, None, None, None, None, R[0], state, "rms_norm", 1e-5, False, *options)
    with pytest.raises(ValueError, match="rng_state is None"):
        norm(X, None, None, None, None, None, None, None, "rms_norm", 1e-5, False, *options)
    with pytest.raises(ValueError, match="rng_state is None"):
        torch.ops.fused_dropout.bias_glu_dropout(X, None, None, True, *options)


MODULES = [
    lambda **options: fd.BiasGLUDropout(4, **options),
    lambda **options: fd.LinearGLUDropout(4, 4, **options),
    lambda **options: fd.GatedMLP(4, 4, 4, **options),
    lambda **options: fd.DropoutAddLayerNorm(4, **options),
    lambda **options: fd.DropoutAddRMSNorm((2, 4), **options),
]


@pytest.mark.parametrize("make", MODULES)
def test_modules(make):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        make(p=1.5)
    with pytest.raises(ValueError, match="activation is 'swish'"):
        make(activation="swish")


@pytest.mark.parametrize("module", [fd.DropoutAddLayerNorm, fd.DropoutAddRMSNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_modules_of_another_width(module, affine):
    for shape in (6, (2, 6)):
        layer = module(shape, elementwise_affine=affine)
        with pytest.raises(RuntimeError, match=r"x has shape \(3, 4\), but normalized_shape"):
            layer(torch.zeros(3, 4), torch.zeros(3, 4))
