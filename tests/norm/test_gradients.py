"""Derivatives of the normalised operators, and what is saved for backward."""

import itertools

import pytest
import torch
from torch.autograd.gradcheck import gradcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.row_operators.calls import (
    CALLS,
    NORM_CALLS,
    STATE,
    P,
    every_norm,
    gradients_of,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)
from tests.row_operators.gradients import *  # noqa: F403
from tests.row_operators.gradients import SHAPE, as_function, saved_by


def with_row_scale(name, tensors):
    if "row_scale" in tensors:
        tensors["row_scale"].requires_grad_()
    return tensors


@pytest.mark.parametrize("name", [name for name in NORM_CALLS if "full" in name])
def test_a_gradient_by_row_scale(name):
    """It takes the composition, and so do the others then."""
    tensors = with_row_scale(name, tensors_of(name, SHAPE, torch.float64))
    function, values = as_function(ours, name, tensors)
    assert gradcheck(function, values, check_forward_ad=True)
    results, exact = ours(name, tensors), theirs(name, tensors)
    upstream = upstream_of(results)
    expected = gradients_of(exact, tensors, upstream)
    for key, gradient in gradients_of(results, tensors, upstream).items():
        torch.testing.assert_close(gradient, expected[key], msg=key)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("name", [n for n in NORM_CALLS if CALLS[n]["prenorm"]])
def test_one_of_two_results(name, used):
    """The gradient by the other is undefined, and counts as zero."""
    tensors = tensors_of(name, (4, 9), torch.float64)
    leaves = [t for t in tensors.values() if t.requires_grad]
    result, exact = ours(name, tensors)[used], theirs(name, tensors)[used]
    dy = torch.randn(result.shape, dtype=torch.float64)
    found = torch.autograd.grad(result, leaves, dy, allow_unused=True)
    expected = torch.autograd.grad(exact, leaves, dy, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        other = torch.zeros_like(one) if other is None else other
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["layer_norm_prenorm", "rms_norm_prenorm"])
def test_prenorm_lets_the_branch_go(name):
    """x and the residual can be freed: h is what the next block keeps anyway."""
    tensors = tensors_of(name, (4, 8))
    _, saved = saved_by(lambda: ours(name, tensors))
    pointers = {tensor.data_ptr() for tensor in saved}
    assert tensors["x"].data_ptr() not in pointers
    assert tensors["residual"].data_ptr() not in pointers


@every_norm
def test_results_changed_in_place_are_noticed(name):
    """What backward reads must not have changed."""
    tensors = tensors_of(name, (4, 8))
    results = ours(name, {k: v * 1 for k, v in tensors.items()})
    results[-1].mul_(2)
    if CALLS[name]["prenorm"]:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            results[0].sum().backward()
    else:
        results[0].sum().backward()


def test_autocast():
    """The dtype is that of the input, never forced; an fp32 residual keeps fp32."""
    x, residual = torch.randn(4, 6, dtype=torch.bfloat16), torch.randn(4, 6)
    weight = torch.ones(6)
    with torch.autocast("cpu", torch.bfloat16):
        y, h = FF.dropout_add_layer_norm(x, residual, weight, p=P, prenorm=True)
        assert (y.dtype, h.dtype) == (torch.bfloat16, torch.float32)


def test_replay_and_other_devices():
    """The composition, which serves every device without kernels, has the same masks."""
    for name, prenorm in itertools.product(("layer_norm", "rms_norm"), (False, True)):
        tensors = tensors_of(f"{name}_prenorm" if prenorm else name, (7, 40))
        composed = torch.func.vmap(
            lambda s, n=name, p=prenorm, t=tensors: ours(f"{n}_prenorm" if p else n, t, rng_state=s)
        )(STATE[None])
        for one, other in zip(
            composed, ours(f"{name}_prenorm" if prenorm else name, tensors), strict=True
        ):
            torch.testing.assert_close(one[0], other)
    assert fd.new_rng_state().shape == (2,)
