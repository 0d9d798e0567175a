"""Bad input of the row operators: the error names the argument and both numbers.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

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


@pytest.mark.parametrize("size", [3, 5, 12])
def test_a_bias_of_the_wrong_length(size):
    for name in FUNCTIONS:
        parts = ["bias has", size, "elements", "x has 6 along dimension -1"]
        check(name, RuntimeError, parts, bias=torch.zeros(size))


def test_no_dimension(function_name):
    options = {"x": torch.tensor(1.0)}
    if function_name in NORMS:
        options["residual"] = None
    check(function_name, RuntimeError, ["x has 0 dimensions", "at least 1"], **options)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probability(function_name, p):
    parts = ["dropout probability has to be between 0 and 1, but got", p]
    check(function_name, ValueError, parts, named=False, p=p)


def test_names(function_name):
    check(function_name, ValueError, ["activation is 'swish'", "gelu"], activation="swish")
    check(function_name, ValueError, ["mode is 'soft'", "inverted"], mode="soft")
    check(function_name, ValueError, ["alpha is", "takes none"], alpha=1.0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_dtypes(function_name, dtype):
    x = torch.zeros(4, 6, dtype=dtype)
    check(function_name, RuntimeError, ["x has dtype"], x=x)
    check(function_name, RuntimeError, ["bias has dtype"], bias=torch.zeros(6, dtype=dtype))
    if function_name in NORMS:
        check(function_name, RuntimeError, ["residual has dtype"], residual=x)
        check(function_name, RuntimeError, ["weight has dtype"], weight=torch.zeros(6, dtype=dtype))


def test_devices(function_name):
    check(
        function_name,
        RuntimeError,
        ["bias is on meta", "x is on cpu"],
        bias=torch.zeros(6, device="meta"),
    )
    if function_name in NORMS:
        for argument, shape in (("residual", (4, 6)), ("weight", 6), ("row_scale", 4)):
            tensor = torch.zeros(shape, device="meta")
            parts = [f"{argument} is on meta", "x is on cpu"]
            check(function_name, RuntimeError, parts, **{argument: tensor})


def test_states(function_name):
    check(function_name, TypeError, ["rng_state has dtype"], rng_state=torch.zeros(2))
    state = torch.zeros(3, dtype=torch.int64)
    check(function_name, RuntimeError, ["rng_state has 3 elements"], rng_state=state)
    check(function_name, ValueError, ["offset 3", "multiple of 4"], rng_state=torch.tensor([1, 3]))


def test_shared_dimensions(function_name):
    check(function_name, IndexError, ["shared_dims has 2", "x has 2 dimensions"], shared_dims=(2,))
    check(function_name, ValueError, ["shared_dims has dimension", "twice"], shared_dims=(0, -2))
    check(function_name, ValueError, ["only one of them"], shared_dims=(0,), noise_shape=(1, None))
    check(
        function_name, ValueError, ["noise_shape has 1 entries", "2 dimensions"], noise_shape=(1,)
    )
    check(
        function_name, ValueError, ["noise_shape has 5", "expected 1, None"], noise_shape=(5, None)
    )


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
