"""Compiled autograd: the backward pass of an eager forward pass is traced and compiled."""

import pytest
import torch
from torch._dynamo import compiled_autograd

import fused_dropout.functional as FF
from tests.compile.compiling import STATE, tensor
from tests.every_function import (
    CALLS,
    assert_close,
    every_call,
    gradients_of,
    run,
    tensors_of,
    upstream_of,
)

NO_TOLERANCE = {"atol": 0, "rtol": 0}


def compiled_gradients(call, tensors, upstream, dynamic=None):
    """Those that compiled autograd accumulates, by argument."""
    results = call(tensors)
    compiler = torch.compile(backend="aot_eager", fullgraph=True, dynamic=dynamic)
    with compiled_autograd._enable(compiler, dynamic=bool(dynamic)):
        torch.autograd.backward(results, upstream)
    return {argument: one.grad for argument, one in tensors.items()}


def assert_like_eager(call, tensors, seed=0, **options):
    torch.manual_seed(seed)
    results = call(tensors)
    upstream = upstream_of(results)
    wanted = gradients_of(results, tensors, upstream)
    torch.manual_seed(seed)
    found = compiled_gradients(call, tensors, upstream, **options)
    assert any(one is not None for one in wanted.values())
    assert_close(found.values(), wanted.values(), **NO_TOLERANCE)


@every_call
def test_gradients(name):
    """With a state that is given; the calls of other tests draw theirs."""
    assert_like_eager(lambda tensors: run(name, tensors, rng_state=STATE), tensors_of(name))


# Attention's backward pass is Python code, which takes long to trace with symbolic sizes.
@pytest.mark.parametrize(
    "name", [name for name in CALLS if CALLS[name].batched and "attention" not in name]
)
def test_dynamic_shapes(name):
    for rows in (4, 7):
        tensors = tensors_of(name, rows)
        assert_like_eager(lambda tensors: run(name, tensors), tensors, dynamic=True)


def test_p_that_changes():
    """Each has its own graph, or is an input of the one graph."""
    for p in (0.2, 0.5):
        assert_like_eager(lambda t, p=p: (FF.dropout(**t, p=p),), {"x": tensor(32, 6, grad=True)})
        p_tensor = torch.tensor(p, dtype=torch.float64)
        assert_like_eager(
            lambda t, p=p_tensor: (FF.dropout(**t, p=p),), {"x": tensor(32, 6, grad=True)}
        )


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "leaky_relu", "negative_slope": -0.3},
        {"activation": "elu", "alpha": 1.7},
        {"mode": "alpha"},
        {"mode": "classic"},
        {"mode": "classic", "training": False},
        {"shared_dims": (-1,)},
        {"bias_dim": 0},
    ],
    ids=str,
)
def test_options(options):
    """What is saved of a call comes back: each of these changes the gradients."""
    bias = tensor(4 if "bias_dim" in options else 6, grad=True)
    tensors = {"x": tensor(4, 6, grad=True), "bias": bias}
    assert_like_eager(lambda t: (FF.bias_act_dropout(**t, p=0.4, **options),), tensors)


@pytest.mark.parametrize("part", ["whole", "rows", "flat"])
@pytest.mark.parametrize("options", [{"rng_state": STATE}, {}], ids=["given", "drawn"])
def test_in_place(part, options):
    """Of a tensor, and of a view of one."""

    def call(tensors):
        y = tensors["x"] * 1
        target = {"whole": y, "rows": y[1:], "flat": y.view(-1)}[part]
        FF.dropout(target, 0.4, inplace=True, **options)
        return (y.sin(),)

    assert_like_eager(call, {"x": tensor(16, 6, grad=True)})


@pytest.mark.parametrize("name", ["dropout", "dropout_add_layer_norm", "drop_block", "standout"])
def test_some_gradients_only(name):
    """Of the first tensor alone, in a layout of its own."""
    tensors = tensors_of(name)
    first = next(iter(tensors))
    for argument, one in tensors.items():
        one.requires_grad_(argument == first)
    tensors[first] = tensors[first].detach().transpose(0, 1).contiguous().transpose(0, 1)
    leaf = {first: tensors[first].requires_grad_()}
    assert_like_eager(lambda leaf: CALLS[name]({**tensors, **leaf}, rng_state=STATE), leaf)


def test_by_the_configuration():
    """`torch.compile` of a full training step, with compiled autograd switched on."""
    x, bias = tensor(16, 6, grad=True), tensor(6, grad=True)

    def step():
        FF.bias_act_dropout(x, bias, 0.4, "gelu", rng_state=STATE).sum().backward()

    step()
    wanted = x.grad, bias.grad
    x.grad = bias.grad = None
    with torch._dynamo.config.patch(compiled_autograd=True):
        torch.compile(step, backend="aot_eager")()
    assert_close((x.grad, bias.grad), wanted, **NO_TOLERANCE)
