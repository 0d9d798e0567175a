"""The modules: training, evaluation, dtypes, copies."""

import copy
import io
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.helpers import DTYPES
from tests.module_helpers import drawing_nothing, seed_and_state
from tests.noise.calls import CALLS, DRAWING


def concrete_layer(dtype=None, **options):
    return fd.ConcreteDropout(layer=nn.Linear(6, 6, dtype=dtype), dtype=dtype, **options)


MODULES = DRAWING | {"concrete_layer": replace(CALLS["concrete"], module=concrete_layer)}
every_module = pytest.mark.parametrize("call", MODULES.values(), ids=MODULES)


@every_module
def test_training_applies_the_contract(call):
    module = call.make_module()
    x = torch.randn(4, 6)
    state = seed_and_state(7)
    expected = call.theirs(call.module_tensors(module, x), state)
    if getattr(module, "layer", None) is not None:
        expected = module.layer(expected)
    assert torch.allclose(module(x), expected, rtol=1e-4, atol=1e-5)


@every_module
def test_evaluation(call):
    module = call.make_module().eval()
    x = torch.randn(4, 6)
    with drawing_nothing():
        y = module(x)
    if call.evaluation is None:
        assert y is x or torch.equal(y, module.layer(x))
    else:
        expected = CALLS[call.evaluation].theirs(call.module_tensors(module, x))
        assert torch.allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_module
def test_dtypes(call, dtype):
    module = call.make_module(dtype=dtype)
    x = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    y = module(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert x.grad.dtype == dtype
    for parameter in module.parameters():
        assert parameter.dtype == dtype and parameter.grad is not None


@every_module
def test_copies(call):
    module = call.make_module()
    x = torch.randn(4, 6)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ]
    torch.manual_seed(1)
    expected = module(x)
    for other in copies:
        torch.manual_seed(1)
        assert torch.equal(other(x), expected)
        assert repr(other) == repr(module)
    fresh = call.make_module()
    fresh.load_state_dict(module.state_dict())
    torch.manual_seed(1)
    assert torch.equal(fresh(x), expected)


@every_module
def test_libraries_find_them(call):
    """The mark that Monte Carlo dropout looks for."""
    assert type(call.make_module()).is_dropout is True


@every_module
def test_autocast(call):
    module = call.make_module()
    with torch.autocast("cpu", torch.bfloat16):
        y = nn.Sequential(nn.Linear(6, 6), module)(torch.randn(4, 6))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(one.grad.dtype == torch.float32 for one in module.parameters())
