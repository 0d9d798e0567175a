"""Constructing or calling a module with a wrong type: a one-line error names the argument."""

import contextlib
import inspect

import pytest
import torch

import fused_dropout as fd
from tests.every_module import MODULES, inputs_of
from tests.module_helpers import drawing_nothing
from tests.noise.calls import NUMBERS

every_module = pytest.mark.parametrize("name", MODULES)
WRONG = {
    **{key: ["a", None] for key in NUMBERS},
    "p": ["0.5", None, [0.5]],
    "shared_dims": [1, "ab", (0.5,)],
    "noise_shape": [1, "ab", (0.5,)],
    "mode": [3, None],
    "activation": [3, None],
    "block_size": [3.0, "3"],
    "weight_regularizer": ["a", None],
}
# What a constructor needs besides.
REQUIRED = {
    "DropConnectLinear": (4, 4),
    "EmbeddingDropout": (4, 4),
    "LinearActDropout": (4, 4),
    "LinearGLUDropout": (4, 4),
    "MLP": (4, 4, 4),
    "GatedMLP": (4, 4, 4),
    **dict.fromkeys(
        (
            "BiasActDropout",
            "BiasDropoutAdd",
            "BiasGLUDropout",
            "DropoutAddLayerNorm",
            "DropoutAddRMSNorm",
        ),
        (4,),
    ),
    "WeightDrop": (torch.nn.Linear(4, 4), "weight"),
}
# Modules that are made of these say whose argument it was.
INSIDE = {"MLP": "LinearActDropout", "GatedMLP": "LinearGLUDropout"}
CASES = [
    (name, argument)
    for name in MODULES
    for argument in WRONG
    if argument in inspect.signature(getattr(fd, name).__init__).parameters
]


@pytest.mark.parametrize("name, argument", CASES)
def test_constructors(name, argument):
    for value in WRONG[argument]:
        with pytest.raises((TypeError, ValueError)) as caught:
            getattr(fd, name)(*REQUIRED.get(name, ()), **{argument: value})
        text = str(caught.value)
        who, _, what = text.partition(": ")
        assert who == INSIDE.get(name, "WeightDropLinear" if name == "WeightDrop" else name), text
        assert argument in what and "\n" not in text and len(text) < 300


@pytest.mark.parametrize("value", [[1.0], None, "x"])
@every_module
def test_calls(name, value):
    """A function of torch that comes first names itself and its argument, in its own words."""
    module = MODULES[name].make().train()
    _, *others = inputs_of(name)
    # What any module takes, a WeightDrop of it cannot know before it has dropped the weights.
    looking = contextlib.nullcontext() if name == "WeightDrop" else drawing_nothing()
    with looking, pytest.raises(TypeError) as caught:
        module(value, *others)
    text = str(caught.value)
    assert "input" in text or ": x is of type" in text, text
    assert "\n" not in text and len(text) < 300
    assert ": " in text


@pytest.mark.parametrize("argument", ["start", "end"])
def test_ramps(argument):
    with pytest.raises(TypeError, match=rf"^LinearRamp: {argument} is 'x', but expected a number"):
        fd.LinearRamp(fd.Dropout(0.1), 3, **{argument: "x"})


def test_rates():
    with pytest.raises(TypeError, match=r"^linear_drop_rates: p is None, but expected a number"):
        fd.linear_drop_rates(None, 3)
