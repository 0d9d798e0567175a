"""Tensors with the negative bit: their memory holds the negated values."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.every_function import (
    STATE,
    assert_close,
    every_call,
    gradients_of,
    run,
    tensors_of,
    upstream_of,
)

DRAWS = {"given": {"rng_state": STATE}, "drawn": {}}
every_draw = pytest.mark.parametrize("draw", DRAWS)


def negative(values):
    """A tensor of these values with the negative bit, differentiable."""
    view = torch.complex(torch.zeros_like(values), -values).conj().imag
    assert view.is_neg()
    return view


def seeded(name, tensors, draw):
    torch.manual_seed(0)
    return run(name, tensors, **DRAWS[draw])


@every_draw
@every_call
def test_results_and_gradients(name, draw):
    tensors = tensors_of(name)
    plain = seeded(name, {key: value * 1 for key, value in tensors.items()}, draw)
    lazy = seeded(name, {key: negative(value) for key, value in tensors.items()}, draw)
    assert_close(lazy, plain)
    upstream = upstream_of(plain)
    assert_close(
        gradients_of(lazy, tensors, upstream).values(),
        gradients_of(plain, tensors, upstream).values(),
    )


@every_call
def test_upstream_gradients(name):
    tensors = tensors_of(name)
    results = run(name, tensors, rng_state=STATE)
    upstream = upstream_of(results)
    leaves = list(tensors.values())
    options = {"retain_graph": True, "allow_unused": True}
    lazy = torch.autograd.grad(results, leaves, [negative(one) for one in upstream], **options)
    assert_close(lazy, torch.autograd.grad(results, leaves, upstream, **options))


@pytest.mark.parametrize("options", [{}, {"mode": "alpha"}, {"shared_dims": (1,)}])
@every_draw
def test_in_place(draw, options):
    x = torch.randn(6, 8)
    memory = torch.complex(torch.zeros(6, 8), -x)
    view = memory.conj().imag
    torch.manual_seed(0)
    y = FF.dropout(view, 0.5, inplace=True, **options, **DRAWS[draw])
    torch.manual_seed(0)
    expected = FF.dropout(x, 0.5, **options, **DRAWS[draw])
    assert y is view
    assert torch.equal(view, expected)
    assert torch.equal(memory.imag, -expected)


@every_draw
def test_in_place_with_a_gradient(draw):
    x = torch.ones(6, 8, requires_grad=True)
    torch.manual_seed(0)
    y = FF.dropout(negative(x), 0.5, inplace=True, **DRAWS[draw])
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert 0 < (y == 0).sum() < y.numel()
