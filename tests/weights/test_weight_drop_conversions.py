"""Conversions of a WeightDrop, or of the module that it shares its parameters with."""

import copy

import pytest
import torch
from torch import nn
from torch.__future__ import (
    set_overwrite_module_params_on_conversion,
    set_swap_module_params_on_conversion,
)

import fused_dropout as fd

SETTINGS = {
    "in place": lambda on: None,
    "swap": set_swap_module_params_on_conversion,
    "overwrite": set_overwrite_module_params_on_conversion,
}
CONVERSIONS = {
    "double": lambda module: module.double(),
    "to": lambda module: module.to(torch.float64),
    "to_empty": lambda module: module.to_empty(device="cpu").double(),
    "load with assign": lambda module: module.load_state_dict(
        {name: value.double() for name, value in module.state_dict().items()}, assign=True
    ),
}
MODULES = {
    "lstm": (lambda: nn.LSTM(4, 5, 2), ["weight_hh_l0", "weight_hh_l1"]),
    "gru": (lambda: nn.GRU(4, 5), ["weight_ih_l0"]),
    "linear": (lambda: nn.Linear(4, 5), ["weight"]),
    "inside": (lambda: nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 5)), ["1.weight_hh_l0"]),
}


@pytest.fixture(params=SETTINGS)
def setting(request):
    SETTINGS[request.param](True)
    yield request.param
    SETTINGS[request.param](False)


def first_of(result):
    return result if isinstance(result, torch.Tensor) else result[0]


@pytest.mark.parametrize("which", ["the WeightDrop", "the wrapped module"])
@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("name", MODULES)
def test_both_have_the_new_weights(name, conversion, which, setting):
    build, names = MODULES[name]
    module = build()
    convert = CONVERSIONS[conversion]
    try:
        convert(copy.deepcopy(module))
    except RuntimeError:
        # torch.nn's recurrent layers refuse to load while parameters are swapped.
        assert setting == "swap" and "load" in conversion
        return
    dropping = fd.WeightDrop(module, names, 0.5)
    dropping(torch.randn(3, 2, 4))
    dropping.eval()(torch.randn(3, 2, 4))
    convert(dropping if which == "the WeightDrop" else module)
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.dtype == torch.float64
            parameter.normal_()
    fresh = build().double()
    with torch.no_grad():
        for one, wanted in zip(fresh.parameters(), dropping.parameters(), strict=True):
            one.copy_(wanted)
    wanted = first_of(fresh(x))
    torch.testing.assert_close(first_of(module(x)), wanted)
    torch.testing.assert_close(first_of(dropping(x)), wanted)
    first_of(dropping.train()(x)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    for one, other in zip(module.parameters(), dropping.parameters(), strict=True):
        assert one is other
    again = copy.deepcopy(dropping).eval()
    torch.testing.assert_close(first_of(again(x)), wanted)
    again.float()(x.float())


def test_a_wrapped_layer_that_is_gone():
    dropping = fd.WeightDrop(nn.LSTM(4, 5), "weight_hh_l0")
    dropping.double()
    assert dropping(torch.randn(3, 2, 4, dtype=torch.float64))[0].dtype == torch.float64
