"""Functionalisation, and traces of TorchScript."""

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.every_function import STATE, assert_close, every_call, run, tensors_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


def values_of(name):
    return {key: value.detach() for key, value in tensors_of(name).items()}


@every_call
def test_functionalised(name):
    tensors = values_of(name)
    functional = torch.func.functionalize(lambda t: run(name, t, rng_state=STATE))
    assert_close(functional(tensors), run(name, tensors, rng_state=STATE))
    torch.manual_seed(0)
    drawn = torch.func.functionalize(lambda t: run(name, t))(tensors)
    torch.manual_seed(0)
    assert_close(drawn, run(name, tensors))


@pytest.mark.parametrize("options", [{}, {"rng_state": STATE}], ids=["drawn", "given"])
def test_functionalised_in_place(options):
    def change(x):
        x = x * 1
        FF.dropout(x, 0.5, inplace=True, **options)
        return x

    x = torch.randn(4, 6)
    torch.manual_seed(0)
    y = torch.func.functionalize(change)(x)
    torch.manual_seed(0)
    assert torch.equal(y, change(x))


def runs(traced, tensors, seeds=(1, 2, 1)):
    results = []
    for seed in seeds:
        torch.manual_seed(seed)
        results.append(traced(*tensors))
    return results


@every_call
def test_a_trace_draws_anew_in_each_run(name):
    """Not a mask that was drawn while tracing; of a call whose tensors are constants neither."""
    tensors = values_of(name)

    def variable(*values):
        return run(name, dict(zip(tensors, values, strict=True)))[0]

    def constant(by):
        return run(name, tensors)[0] * by

    for function, inputs in ((variable, tuple(tensors.values())), (constant, (torch.ones(()),))):
        traced = torch.jit.trace(function, inputs, check_trace=False)
        first, other, again = runs(traced, inputs)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        torch.manual_seed(1)
        torch.testing.assert_close(first, function(*inputs))


def test_a_trace_of_a_new_state():
    traced = torch.jit.trace(lambda x: x + fd.new_rng_state(), torch.zeros(2, dtype=torch.int64))
    first, other, again = runs(traced, (torch.zeros(2, dtype=torch.int64),))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_gradient_of_a_trace():
    traced = torch.jit.trace(lambda x: FF.dropout(x, 0.5), torch.ones(64, 32), check_trace=False)
    x = torch.ones(64, 32, requires_grad=True)
    y = traced(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
