"""Double backward of large calls, which the CPU computes in pieces."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.autograd.derivatives import STATE
from tests.helpers import thread_count

SIZES = [(512, 128), (2, 300, 110), (70_000,), (3, 4, 5500), (1, 70_000)]


def second_derivatives(x, bias, create_graph, **options):
    leaves = [x.clone().requires_grad_()]
    if bias is not None:
        leaves.append(bias.clone().requires_grad_())
    y = FF.bias_act_dropout(*leaves, *([None] * (bias is None)), 0.4, "gelu", **options)
    dy = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y).requires_grad_()
    dx = torch.autograd.grad(y, leaves, dy, create_graph=True)
    weights = [torch.linspace(1, 2, one.numel(), dtype=one.dtype).view_as(one) for one in dx]
    # With a graph of its own, the whole is computed at once.
    return torch.autograd.grad(dx, [*leaves, dy], weights, create_graph=create_graph)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias_dim", [None, 0, -1])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_same_as_at_once(size, bias_dim, dtype):
    x = torch.randn(size, dtype=dtype)
    bias = None if bias_dim is None else torch.randn(size[bias_dim], dtype=dtype)
    options = {"rng_state": STATE, "bias_dim": -1 if bias_dim is None else bias_dim}
    pieces, at_once = (second_derivatives(x, bias, graph, **options) for graph in (False, True))
    tolerance = {} if dtype == torch.float64 else {"rtol": 0.02, "atol": 0.02}
    for one, other in zip(pieces, at_once, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize("options", [{"shared_dims": (1,)}, {"mode": "alpha"}], ids=str)
def test_layouts_and_options(options):
    x = torch.randn(4, 30, 40, 30).to(memory_format=torch.channels_last)
    bias = torch.randn(30)
    options = {"rng_state": STATE, "bias_dim": 1, **options}
    pieces, at_once = (second_derivatives(x, bias, graph, **options) for graph in (False, True))
    for one, other in zip(pieces, at_once, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_number_of_threads():
    x, bias = torch.randn(512, 300), torch.randn(300)
    results = []
    for count in (1, 2):
        with thread_count(count):
            results.append(second_derivatives(x, bias, False, rng_state=STATE))
    assert all(map(torch.equal, *results))
