"""Compiled autograd: the backward pass of eager calls, traced and compiled as a whole."""

import pytest
import torch
from every_function import STATE, assert_close, every_call, run, tensors_of, upstream_of
from torch._dynamo import compiled_autograd

import fused_dropout.functional as FF

STATES = {"given": {"rng_state": STATE}, "drawn": {}}


def backward(results, upstream, **options):
    """Compiled, without a break."""
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True, **options)):
        torch.autograd.backward(results, upstream)


def seeded(name, tensors, options):
    torch.manual_seed(0)
    return run(name, tensors, **options)


@pytest.mark.parametrize("options", STATES.values(), ids=STATES)
@every_call
def test_gradients_are_those_of_eager_calls(name, options):
    tensors, twins = tensors_of(name), tensors_of(name)
    ours, theirs = seeded(name, tensors, options), seeded(name, twins, options)
    upstream = upstream_of(ours)
    backward(ours, upstream)
    torch.autograd.backward(theirs, upstream)
    assert_close([one.grad for one in tensors.values()], [one.grad for one in twins.values()])


@pytest.mark.parametrize("name", ["bias_act_dropout", "bias_glu_dropout", "dropout_add_rms_norm"])
def test_other_sizes_and_numbers(name):
    """The graph of one call is not taken for that of another."""
    for rows, p in ((4, 0.4), (7, 0.4), (4, 0.7)):
        tensors, twins = tensors_of(name, rows), tensors_of(name, rows)
        ours, theirs = (getattr(FF, name)(**one, p=p, rng_state=STATE) for one in (tensors, twins))
        backward(ours.sin().sum(), None, dynamic=True)
        theirs.sin().sum().backward()
        assert_close([one.grad for one in tensors.values()], [one.grad for one in twins.values()])


@pytest.mark.parametrize("is_view", [False, True])
@pytest.mark.parametrize("options", STATES.values(), ids=STATES)
def test_in_place(options, is_view):
    def call(x):
        torch.manual_seed(0)
        y = x * 1
        FF.dropout(y[1:] if is_view else y, 0.5, inplace=True, **options)
        return y

    x, twin = (torch.ones(6, 8, requires_grad=True) for _ in range(2))
    backward(call(x).sum(), None)
    call(twin).sum().backward()
    assert torch.equal(x.grad, twin.grad)
    assert 0 < (x.grad == 0).sum() < x.numel()


@pytest.mark.parametrize("options", [{"shared_dims": (0,)}, {"mode": "alpha"}, {"mode": "classic"}])
def test_options_of_dropout(options):
    x = torch.randn(16, 6, requires_grad=True)

    def call():
        return FF.dropout(x, 0.4, rng_state=STATE, **options).sum()

    (wanted,) = torch.autograd.grad(call(), x)
    backward(call(), None)
    assert torch.equal(x.grad, wanted)
