"""Calls that have to fail: the message; nothing is computed and nothing is drawn."""

import re

import pytest
import torch

import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing

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
