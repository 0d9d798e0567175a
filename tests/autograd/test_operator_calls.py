"""Which operators derivatives and transforms call: kernels, and a mask at most once."""

from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF
from fused_dropout import _vmap
from tests.autograd.derivatives import STATE
from tests.module_helpers import fixed_state

STATES = torch.stack([fixed_state(seed) for seed in range(4)])


class Calls(TorchDispatchMode):
    """Counts the calls of operators by name; ours have no prefix."""

    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("fused_dropout::")
        if name not in ("aten::detach", "aten::alias"):
            self.names[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def ours(self):
        return {name: count for name, count in self.names.items() if "::" not in name}


def calls_of(function):
    with Calls() as calls:
        function()
    return calls


def first_gradient(call, *tensors):
    """A gradient that can be differentiated, and what it was computed from."""
    leaves = [one.detach().requires_grad_() for one in tensors]
    y = call(*leaves)
    dy = torch.randn_like(y).requires_grad_()
    return torch.autograd.grad(y, leaves[0], dy, create_graph=True)[0], dy, leaves


@pytest.mark.parametrize("mode", ["inverted", "classic", "alpha"])
def test_double_backward_of_dropout_is_one_kernel(mode):
    dx, dy, _ = first_gradient(
        lambda x: FF.dropout(x, 0.4, mode=mode, rng_state=STATE), torch.randn(6, 8)
    )
    upstream = torch.randn_like(dx)
    calls = calls_of(lambda: torch.autograd.grad(dx, dy, upstream))
    assert calls.names == {"bias_act_dropout_backward": 1}


def test_double_backward_of_relu_draws_no_mask():
    dx, dy, _ = first_gradient(
        lambda x: FF.bias_act_dropout(x, None, 0.4, "relu", rng_state=STATE), torch.randn(6, 8)
    )
    upstream = torch.randn_like(dx)
    calls = calls_of(lambda: torch.autograd.grad(dx, dy, upstream))
    assert calls.names == {"bias_act_dropout_backward": 1}


@pytest.mark.parametrize("activation", FF.ACTIVATIONS)
def test_double_backward_computes_the_mask_once(activation):
    dx, dy, leaves = first_gradient(
        lambda x, bias, residual: FF.bias_act_dropout(
            x, bias, 0.4, activation, residual=residual, rng_state=STATE
        ),
        *(torch.randn(6, 8), torch.randn(8), torch.randn(6, 8)),
    )
    calls = calls_of(
        lambda: torch.autograd.grad(dx, [dy, *leaves[:2]], torch.randn_like(dx), allow_unused=True)
    )
    assert calls.ours["bias_act_dropout_backward"] == 1
    assert calls.ours.get("dropout_mask", 0) == (activation != "identity")
    assert calls.names.total() < 60


@pytest.mark.parametrize("activation", FF.ACTIVATIONS)
def test_forward_mode_is_two_kernels(activation):
    x, bias, residual = torch.randn(6, 8), torch.randn(8), torch.randn(6, 8)

    def call(x, bias, residual):
        return FF.bias_act_dropout(x, bias, 0.4, activation, residual=residual, rng_state=STATE)

    inputs = (x, bias, residual)
    calls = calls_of(lambda: jvp(call, inputs, tuple(map(torch.ones_like, inputs))))
    assert calls.ours == {"bias_act_dropout": 1, "bias_act_dropout_backward": 1}
    assert calls.names["aten::add.Tensor"] == 2  # the tangents of bias and residual
    dropout = calls_of(lambda: jvp(lambda x: FF.dropout(x, 0.4, rng_state=STATE), (x,), (x,)))
    assert dropout.ours == {"bias_act_dropout": 1, "bias_act_dropout_backward": 1}
    assert not any("where" in name or "mul" in name for name in dropout.names)


COMPOSITE = torch._C.DispatchKey.CompositeExplicitAutograd


@pytest.mark.parametrize("device", ["cpu", "xpu"])
def test_masks_of_compositions_come_from_a_kernel_if_there_is_one(device):
    operator = torch.ops.fused_dropout.bias_act_dropout.default
    with FakeTensorMode():
        x = torch.empty(4, 8, device=device)
        state = torch.empty(2, dtype=torch.int64, device=device)
        options = (0.4, None, "gelu", None, None, -1, "inverted", True, [], None, 0)
        calls = calls_of(lambda: operator._op_dk(COMPOSITE, x, None, None, state, *options))
    assert calls.ours == ({"dropout_mask": 1} if device == "cpu" else {})
    assert (calls.names["aten::bitwise_and.Scalar"] > 10) == (device == "xpu")


def shared_call(x):
    return FF.bias_act_dropout(x, torch.ones(8), 0.4, "gelu", rng_state=STATE)


@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_with_one_state_is_one_kernel(dim):
    x = torch.randn(4, 4, 8)
    assert calls_of(lambda: vmap(shared_call, dim)(x)).ours == {"bias_act_dropout": 1}
    calls = calls_of(lambda: vmap(lambda x: jvp(shared_call, (x,), (x,))[1], dim)(x))
    assert calls.ours == {"bias_act_dropout": 1, "bias_act_dropout_backward": 1}


def test_vmap_that_draws_the_same_mask_is_one_kernel():
    calls = calls_of(
        lambda: vmap(lambda x: FF.dropout(x, 0.4), randomness="same")(torch.ones(4, 8))
    )
    assert calls.ours == {"bias_act_dropout": 1}


def test_vmap_over_states_computes_all_masks_at_once():
    x = torch.randn(4, 6, 8)
    calls = calls_of(lambda: vmap(lambda x, state: FF.dropout(x, 0.4, rng_state=state))(x, STATES))
    assert calls.ours == {"dropout_mask": 1}
    nested = calls_of(
        lambda: vmap(vmap(lambda state: FF.dropout(x[0], 0.4, rng_state=state)))(
            STATES.reshape(2, 2, 2)
        )
    )
    assert nested.ours == {"dropout_mask": 1}
    different = calls_of(
        lambda: vmap(lambda x: FF.bias_act_dropout(x, None, 0.4), randomness="different")(x)
    )
    assert different.ours == {"dropout_mask": 1}


def each_by_itself(x, bias):
    return vmap(lambda x, bias: FF.bias_act_dropout(x, bias, 0.4, "gelu"), randomness="different")(
        x, bias
    )


def test_vmap_over_states_is_a_kernel_for_each_of_few_or_large_examples(monkeypatch):
    """Modes, such as the one that counts calls here, take the composition, which can be traced."""
    monkeypatch.setattr(_vmap, "is_in_torch_dispatch_mode", lambda: False)
    for size, shape in ((32, (2, 8)), (33, (512, 8))):
        tensors = torch.randn(size, *shape), torch.randn(size, shape[-1])
        assert calls_of(lambda: each_by_itself(*tensors)).ours == {"bias_act_dropout": size}  # noqa: B023
    many = calls_of(lambda: each_by_itself(torch.randn(33, 2, 8), torch.randn(33, 8)))
    assert many.ours == {"dropout_mask": 1}


def test_functional_gradients_of_large_calls_are_kernels(monkeypatch):
    monkeypatch.setattr(_vmap, "is_in_torch_dispatch_mode", lambda: False)

    def loss(x, bias):
        return FF.bias_act_dropout(x, bias, 0.4, "gelu").sum()

    x, bias = torch.randn(2, 512, 128), torch.randn(2, 128)
    alone = calls_of(lambda: grad(loss, (0, 1))(x[0], bias[0]))
    kernels = {"bias_act_dropout": 1, "bias_act_dropout_backward": 1}
    assert alone.ours == {"draw_rng_state": 1, **kernels}
    mapped = calls_of(lambda: vmap(grad(loss, (0, 1)), randomness="different")(x, bias))
    del mapped.names["draw_rng_state"]
    assert mapped.ours == dict.fromkeys(kernels, 2)


def test_vmap_over_gradients_is_one_kernel():
    x, bias = torch.randn(6, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    y = FF.bias_act_dropout(x, bias, 0.4, "gelu", rng_state=STATE)
    batch = torch.randn(4, 6, 8)
    calls = calls_of(
        lambda: vmap(lambda dy: torch.autograd.grad(y, (x, bias), dy, retain_graph=True))(batch)
    )
    assert calls.ours == {"bias_act_dropout_backward": 1}
