"""Forward-mode derivatives."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import hessian, jacfwd, jacrev, jvp

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.autograd.derivatives import (
    assert_all_close,
    call_of,
    every_activation,
    given,
    needs,
    operands,
)
from tests.module_helpers import kept, seed_and_state


@every_activation
@needs
def test_dual_numbers(activation, bias, residual):
    inputs = [one.detach() for one in given(operands(bias, residual))]
    tangents = [torch.randn_like(one) for one in inputs]
    results = []
    for call in call_of(activation, bias, residual):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
            results.append(forward_ad.unpack_dual(call(*duals)))
        results.append(jvp(call, tuple(inputs), tuple(tangents)))
    for one in results[1:]:
        assert_all_close(results[0], one)


@pytest.mark.parametrize("which", range(3))
def test_tangent_of_one_input(which):
    inputs = [one.detach() for one in operands()]
    tangent = torch.randn_like(inputs[which])
    results = []
    for call in call_of("silu"):
        with forward_ad.dual_level():
            duals = list(inputs)
            duals[which] = forward_ad.make_dual(inputs[which], tangent)
            results.append(forward_ad.unpack_dual(call(*duals)))
    assert_all_close(*results)


def test_forward_mode_draws_as_eager_does():
    x = torch.randn(64)
    state = seed_and_state(3)
    y, tangent = jvp(lambda x: FF.dropout(x, 0.5), (x,), (torch.ones(64),))
    assert torch.equal(y, reference.dropout(x, 0.5, state))
    assert torch.equal(tangent, kept(x, 0.5, state) * 2.0)


@every_activation
def test_jacobians_and_hessian(activation):
    """Forward over forward, reverse over reverse, and mixed."""
    ours, theirs = call_of(activation, residual=False)
    x, bias, _ = (one.detach() for one in operands(shape=(2, 3)))
    for jacobian in (jacfwd, jacrev):
        assert_all_close(
            jacobian(ours, argnums=(0, 1))(x, bias), jacobian(theirs, argnums=(0, 1))(x, bias)
        )

    def loss(call):
        return lambda x: call(x, bias).pow(3).sum()

    wanted = hessian(loss(theirs))(x)
    for outer, inner in itertools.product([jacfwd, jacrev], repeat=2):
        torch.testing.assert_close(outer(inner(loss(ours)))(x), wanted)
