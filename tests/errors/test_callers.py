"""Errors of operators and modules, and under the compiler."""

import math
import subprocess
import sys

import pytest
import torch

import fused_dropout as fd
from tests.errors.bad_input import FUNCTIONS, X, every_function
from tests.module_helpers import drawing_nothing

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
