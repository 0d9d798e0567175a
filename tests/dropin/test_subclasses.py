"""Tensor subclasses and modes that intercept calls."""

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("inplace", [False, True])
def test_tensor_subclass(inplace):
    """Kept, as torch keeps it, under the mask of a plain tensor."""
    x = torch.randn(4, 6)
    torch.manual_seed(23)
    wanted = FF.dropout(x)
    torch.manual_seed(23)
    y = FF.dropout(x.clone().as_subclass(Subclass), inplace=inplace)
    assert type(y) is type(F.dropout(x.as_subclass(Subclass))) is Subclass
    assert torch.equal(y.as_subclass(torch.Tensor), wanted)


def test_torch_function_mode_sees_the_operators():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = torch.randn(4, 6)
    torch.manual_seed(24)
    wanted = FF.bias_act_dropout(x)
    torch.manual_seed(24)
    with Mode():
        assert torch.equal(FF.bias_act_dropout(x), wanted)
    assert any("fused_dropout.bias_act_dropout" in name for name in seen)


def test_dispatch_mode_sees_the_operators():
    """Eager calls do not bypass the dispatcher."""
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    with Mode():
        FF.dropout(torch.randn(4, 6))
        FF.dropout(torch.randn(4, 6), inplace=True)
    operators = [name.split("::")[1] for name in seen if name.startswith("fused_dropout::")]
    assert operators == ["draw_rng_state", "bias_act_dropout", "draw_rng_state", "dropout_"]


def test_default_device():
    x = torch.randn(4, 6)
    torch.manual_seed(25)
    wanted = FF.dropout(x)
    torch.manual_seed(25)
    with torch.device("meta"):
        assert torch.equal(FF.dropout(x), wanted)
