"""What a call saves for backward, and gradients that backward does not compute."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF
from tests.helpers import ACTIVATIONS, DTYPES, state

SHAPE = (4, 6, 5)


def saved_storages(call):
    """The call's result and every tensor that it saved for backward."""
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return call(), saved


def extra_bytes(saved, known):
    """Bytes in storages that are neither an input's nor an output's."""
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in saved}
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_only_the_state_is_saved(activation, mode):
    for dtype, with_bias, with_residual, bias_dim in itertools.product(
        DTYPES, (0, 1), (0, 1), (1, -1)
    ):
        x = torch.randn(SHAPE).to(dtype).requires_grad_()
        bias = torch.randn(SHAPE[bias_dim]).to(dtype).requires_grad_() if with_bias else None
        residual = torch.randn(SHAPE).to(dtype).requires_grad_() if with_residual else None
        options = {"residual": residual, "bias_dim": bias_dim, "mode": mode}
        y, saved = saved_storages(
            lambda: FF.bias_act_dropout(x, bias, 0.3, activation, **options)  # noqa: B023
        )
        known = [tensor for tensor in (x, bias, residual, y) if tensor is not None]
        assert extra_bytes(saved, known) == 16
        if activation == "identity":
            assert sum(tensor.numel() for tensor in saved) == 2
        if activation == "relu" and not with_residual and mode != "alpha":
            # The next layer keeps y anyway, so that x can go.
            assert x.data_ptr() not in {tensor.data_ptr() for tensor in saved}


@pytest.mark.parametrize("shape", [(4, 6), (2, 3, 5, 7)], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
def test_plain_dropout_saves_sixteen_bytes(shape, inplace):
    x = torch.randn(shape, requires_grad=True)
    y, saved = saved_storages(lambda: FF.dropout(x * 1, 0.3, inplace=inplace))
    assert y.requires_grad
    assert [tensor.numel() * tensor.element_size() for tensor in saved if tensor.numel() > 1] == [
        16
    ]


def test_nothing_is_saved_without_dropout():
    x = torch.randn(SHAPE, requires_grad=True)
    _, saved = saved_storages(lambda: FF.bias_act_dropout(x, None, 0.0, "identity"))
    assert saved == []


# ---------------------------------------------------------------- gradients that are not needed


class BackwardCalls(TorchDispatchMode):
    """Records `output_mask` of every call of the backward operator."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.fused_dropout.bias_act_dropout_backward.default:
            self.masks.append(tuple(args[-1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3)), ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_frozen_operands_cost_nothing(activation, needs):
    x, bias, residual = (
        torch.randn(shape).requires_grad_(need)
        for shape, need in zip((SHAPE, SHAPE[-1], SHAPE), needs, strict=True)
    )
    with BackwardCalls() as calls:
        y, saved = saved_storages(
            lambda: FF.bias_act_dropout(x, bias, 0.3, activation, residual=residual)
        )
        assert y.requires_grad == any(needs)
        if any(needs):
            y.sum().backward()
    assert [t.grad is not None for t in (x, bias, residual)] == list(needs)
    # The residual's gradient is dy: no operator runs for it, and nothing but the state is kept.
    assert calls.masks == ([needs[:2]] if any(needs[:2]) else [])
    if not any(needs[:2]):
        assert sum(tensor.numel() for tensor in saved) <= 2


def test_gradients_of_some_inputs_only():
    """`autograd.grad` asks for less than `requires_grad` promises."""
    x, bias, residual = (torch.randn(s, requires_grad=True) for s in (SHAPE, SHAPE[-1], SHAPE))
    for operand, mask in [(x, (True, False)), (bias, (False, True)), (residual, None)]:
        with BackwardCalls() as calls:
            y = FF.bias_act_dropout(x, bias, 0.3, residual=residual)
            torch.autograd.grad(y.sum(), operand)
        assert calls.masks == ([mask] if mask else [])


@pytest.mark.parametrize("wanted", list(itertools.product((False, True), repeat=2)), ids=str)
def test_the_operator_computes_what_is_asked_for(capability, wanted):
    x, dy = torch.randn(2, *SHAPE)
    strides = list(x.stride())

    def backward(mask):
        return torch.ops.fused_dropout.bias_act_dropout_backward(
            *(dy, x, None, state(), 0.3, None, "gelu", None, None, -1, "inverted", True, []),
            *(None, 0, False, strides, torch.float32, torch.float32, list(mask)),
        )

    for asked, part, full in zip(wanted, backward(wanted), backward((True, True)), strict=True):
        assert torch.equal(part, full if asked else torch.empty(0))
