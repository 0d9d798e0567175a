"""What is saved for backward; in-place calls."""

import pytest
import torch
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.func import hessian

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.autograd.derivatives import STATE, call_of, operands
from tests.module_helpers import fixed_state, kept


def saved_by(call):
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = call()
    return y, saved


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("wanted", [(1, 1, 1), (0, 1, 0), (0, 0, 1)])
def test_saved_tensors(activation, wanted):
    """The state alone for the identity; else what the call was given; nothing for the residual."""
    x, bias, residual = (
        one.detach().requires_grad_(bool(need))
        for one, need in zip(operands(), wanted, strict=True)
    )
    y, saved = saved_by(lambda: call_of(activation)[0](x, bias, residual))
    shapes = sorted(tuple(one.shape) for one in saved if one is not None)
    if activation == "identity" or wanted == (0, 0, 1):
        assert shapes == [(2,)]
    else:
        assert shapes == [(2,), (3, 5), (5,)]
        assert {one.data_ptr() for one in saved} >= {x.data_ptr(), bias.data_ptr()}
    y.sum().backward()


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_relu_saves_its_output(mode):
    x = torch.randn(8, 8, requires_grad=True)
    y, saved = saved_by(lambda: FF.bias_act_dropout(x, None, 0.5, "relu", mode=mode))
    assert sorted(tuple(one.shape) for one in saved) == [(2,), (8, 8)]
    assert y.data_ptr() in {one.data_ptr() for one in saved}


@pytest.mark.parametrize(
    "activation, argument",
    [("gelu", "x"), ("gelu", "bias"), ("gelu", "state"), ("identity", "state"), ("relu", "y")],
)
def test_saved_tensors_must_not_change(activation, argument):
    x, bias, state = torch.randn(4, 6), torch.randn(6), fixed_state()
    leaf = x.clone().requires_grad_()
    x = leaf * 1
    bias = bias.requires_grad_() * 1
    y = FF.bias_act_dropout(x, bias, 0.5, activation, rng_state=state)
    loss = y.sum()
    with torch.no_grad():
        {"x": x, "bias": bias, "state": state, "y": y}[argument].add_(4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_not_saved_may_change():
    leaf = torch.randn(4, 6, requires_grad=True)
    x = leaf * 1
    y = FF.dropout(x, 0.5, rng_state=STATE)
    x.mul_(7)
    y.mul_(3)
    y.sum().backward()
    assert torch.equal(leaf.grad, kept(leaf, 0.5, STATE) * 6.0)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_share_no_memory_with_inputs(p, training, recording, bias):
    x, b, residual = operands(bias)
    with torch.set_grad_enabled(recording):
        outputs = [
            FF.bias_dropout_add(x, b, residual, p, training),
            FF.bias_act_dropout(x, b, p, "identity", training),
        ]
    for y in outputs:
        assert y.data_ptr() not in (x.data_ptr(), residual.data_ptr())
        assert y._base is None


@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("p", [0.4, 1.0])
@pytest.mark.parametrize("options", [{}, {"shared_dims": (1,)}], ids=str)
def test_inplace_gradient(mode, p, options):
    leaf = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def ours(leaf):
        return FF.dropout(leaf.sin(), p, inplace=True, mode=mode, rng_state=STATE, **options)

    def theirs(leaf):
        return reference.dropout(leaf.sin(), p, STATE, mode=mode, **options)

    torch.testing.assert_close(ours(leaf), theirs(leaf))
    assert gradcheck(ours, leaf, check_forward_ad=True)
    assert gradgradcheck(ours, leaf)
    torch.testing.assert_close(
        hessian(lambda x: ours(x).pow(3).sum())(leaf.detach()),
        hessian(lambda x: theirs(x).pow(3).sum())(leaf.detach()),
    )


def test_inplace_twice():
    leaf = torch.randn(8, 8, requires_grad=True)
    states = [fixed_state(1), fixed_state(2)]
    x = leaf * 1
    for state in states:
        FF.dropout(x, 0.5, inplace=True, rng_state=state)
    x.sum().backward()
    keep = kept(leaf, 0.5, states[0]) & kept(leaf, 0.5, states[1])
    assert torch.equal(leaf.grad, keep * 4.0)
