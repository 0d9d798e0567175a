"""The compiler sees the composition itself where a device has no kernels."""

import pytest
import torch
from torch._inductor.utils import run_and_get_code

import fused_dropout.functional as FF
from fused_dropout import _decomposition
from tests.helpers import state

STATE = state()


@pytest.fixture(autouse=True)
def no_kernels(monkeypatch):
    """For the compiler alone: what is compiled here runs on the CPU."""
    monkeypatch.setattr(_decomposition, "has_kernels", lambda device_or_tensor: False)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_forward_and_backward_are_fused_and_have_the_same_mask():
    def step(x, bias, residual):
        return FF.bias_act_dropout(x, bias, 0.4, "relu", residual=residual, rng_state=STATE)

    tensors = [torch.randn(size, requires_grad=True) for size in ((16, 40), (40,), (16, 40))]

    def with_gradients(function):
        y = function(*tensors)
        return y, *torch.autograd.grad(y.square().sum(), tensors)

    compiled = torch.compile(step, fullgraph=True)
    found, codes = run_and_get_code(with_gradients, compiled)
    torch.testing.assert_close(found, with_gradients(step))
    assert len(codes) == 2
    for code in codes:
        assert "fused_dropout.bias_act_dropout" not in code
        assert code.count("extern_kernels.") == 0


def test_dynamic_sizes():
    compiled = torch.compile(
        lambda x: FF.dropout(x, 0.4, rng_state=STATE), fullgraph=True, dynamic=True,
        backend="aot_eager",
    )  # fmt: skip
    for size in ((3, 7), (5, 11), (8, 16)):
        x = torch.randn(size)
        assert torch.equal(compiled(x), FF.dropout(x, 0.4, rng_state=STATE))


def test_a_tensor_for_p_stays_an_input():
    """The composition reads its number, which a graph cannot."""

    def drop(x, p):
        return FF.dropout(x, p, rng_state=STATE)

    x = torch.randn(6, 40)
    compiled = torch.compile(drop, fullgraph=True, backend="aot_eager")
    for p in (0.3, 0.6):
        p = torch.tensor(p, dtype=torch.float64)
        assert torch.equal(compiled(x, p), drop(x, p))
