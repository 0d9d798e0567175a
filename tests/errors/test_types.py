"""Arguments of a wrong type: a one-line error names the function and the argument."""

import inspect

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.every_function import CALLS, run, tensors_of
from tests.module_helpers import drawing_nothing
from tests.noise.calls import NUMBERS

TENSORS = {"a list": [1.0], "None": None, "a number": 2.0}
OPTIONAL = ("bias", "residual", "norm_bias", "layer_scale")
# Values of a wrong type for each argument that is not a tensor.
WRONG = {
    **{key: ["a", None] for key in NUMBERS},
    "p": ["0.5", None, [0.5]],
    "dropout_p": ["0.5", None],
    "rng_state": [[1, 0], 3, "state"],
    "generator": [5, "cpu"],
    "shared_dims": [1, "ab", (0.5,)],
    "noise_shape": [1, "ab"],
    "shard": [1, (4, 6)],
    "activation": [3, None],
    "negative_slope": ["a"],
    "alpha": ["a", [1.0]],
    "eps": ["a", None],
    "bias_dim": [0.5, None],
    "block_size": [3.0, "3", None],
    "mode": [5, None],
}


def takes(name, argument):
    return argument in inspect.signature(getattr(FF, name)).parameters


NAMES = [name for name in CALLS if CALLS[name].function == name]
# {(function, argument): values of a wrong type}
CASES = {
    (name, argument): values
    for name in NAMES
    for argument, values in WRONG.items()
    if takes(name, argument)
} | {
    (name, argument): [v for v in TENSORS.values() if v is not None or argument not in OPTIONAL]
    for name in NAMES
    for argument in CALLS[name].shapes
}


def call(name, argument, value):
    """The call with this value for the argument."""
    own = CALLS[name]
    tensors = {key: one for key, one in tensors_of(name).items() if key != argument}
    options = {key: one for key, one in own.options.items() if key != argument}
    return type(own)(own.function, own.shapes, options)(tensors, **{argument: value})


def may_be_none(name, argument):
    return argument == "residual" or (argument == "weight" and "norm" in name)


@pytest.mark.parametrize("name, argument", CASES)
def test_the_argument_is_named(name, argument):
    for value in CASES[name, argument]:
        if value is None and may_be_none(name, argument):
            continue
        with drawing_nothing(), pytest.raises((TypeError, ValueError)) as caught:
            call(name, argument, value)
        text = str(caught.value)
        assert text.startswith(f"{name}: "), text
        assert argument in text
        assert len(text) < 300
        assert "\n" not in text


def test_the_tensors_of_valid_calls_are_right():
    """So that it is the argument in question that fails above."""
    for name in NAMES:
        run(name, tensors_of(name))


@pytest.mark.parametrize("name", [name for name in NAMES if takes(name, "shard")])
def test_a_shard_of_too_many_elements(name):
    x = torch.ones(2, 2)
    shard = fd.Shard((2**40, 2**40), (2**39, 0))
    tensors = {key: value if value.dim() == 0 else x for key, value in tensors_of(name).items()}
    for key in ("bias", "weight", "norm_bias", "layer_scale"):
        if key in tensors:
            tensors[key] = torch.ones(2)
    if name == "bias_glu_dropout":
        tensors = {"x": torch.ones(2, 2**2), "bias": torch.ones(2**2)}
    if "norm" in name:
        shard = fd.Shard((2**63, 2), (2**39, 0))
    with drawing_nothing(), pytest.raises(ValueError, match=f"{name}: shard has shape"):
        run(name, tensors, shard=shard)
