"""Derivatives of DropBlock beyond the plain backward pass, and what is saved for backward."""

import pytest
import torch
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.drop_block.calls import ORDERS, STATE, expected_mask, maps

P = 0.3


def function_of(**options):
    options = {"rng_state": STATE, **options}
    return lambda x: FF.drop_block(x, P, 3, **options)


OPTIONS = [{}, {"shared_channels": True}, {"mode": "classic"}]
OPTIONS += [{"mode": "classic", "training": False}]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=str)
SHAPES = [(2, 3, 5, 4), (2, 2, 6), (1, 2, 3, 4, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_option
def test_gradcheck(options, shape):
    x = maps(shape, torch.float64).requires_grad_()
    assert gradcheck(
        function_of(**options), x, check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    squared = lambda x: function_of(**options)(x * x)  # noqa: E731
    assert gradgradcheck(squared, x, check_fwd_over_rev=True)


@pytest.mark.parametrize("order", ["contiguous", "channels_last", "batch_between"])
@every_option
def test_torch_func(options, order):
    """One mask for grad, jvp, jacrev, and for what they are applied to."""
    x = maps((2, 3, 5, 4), torch.float64, ORDERS[order])
    function = function_of(**options)
    keywords = {key: value for key, value in options.items() if key != "rng_state"}

    def reference_function(x):
        return reference.drop_block(x, P, 3, STATE, **keywords)

    def energy(function):
        return lambda x: function(x).square().sum()

    for transform in (torch.func.grad, torch.func.hessian):
        found = transform(energy(function))(x)
        torch.testing.assert_close(found, transform(energy(reference_function))(x))
    tangent = maps(x.shape, torch.float64, seed=4)
    found = torch.func.jvp(function, (x,), (tangent,))
    y, dy = function(x), function(tangent.clone(memory_format=torch.preserve_format))
    torch.testing.assert_close(found[0], y)
    if order == "contiguous":
        torch.testing.assert_close(found[1], dy)


@pytest.mark.parametrize("shared", [False, True])
def test_vmap(shared):
    """Of each example apart: the scale is that of its own mask."""
    x = maps((4, 2, 3, 8, 8))
    options = {"shared_channels": shared}

    def function(x):
        return FF.drop_block(x, P, 3, **options)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(function)(x)
    same = torch.func.vmap(function, randomness="same")(x) != 0
    assert all(torch.equal(one, same[0]) for one in same)
    different = torch.func.vmap(function, randomness="different")(x) != 0
    assert not torch.equal(different[0], different[1])
    states = torch.stack([fd.new_rng_state() for _ in range(4)])
    each = torch.func.vmap(lambda x, s: FF.drop_block(x, P, 3, rng_state=s, **options))(x, states)
    for one, x_one, rng_state in zip(each, x, states, strict=True):
        torch.testing.assert_close(one, FF.drop_block(x_one, P, 3, rng_state=rng_state, **options))


def test_vmap_over_the_second_dimension():
    x = maps((2, 4, 3, 8, 8))
    found = torch.func.vmap(function_of(), in_dims=1, out_dims=1)(x)
    expected = torch.stack([function_of()(x[:, i].contiguous()) for i in range(4)], 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("order", ["contiguous", "channels_last"])
def test_double_backward_takes_the_kernels(order):
    """In any dtype, with the mask of the first."""
    x = maps((2, 8, 12, 12), torch.bfloat16, ORDERS[order]).requires_grad_()
    y = function_of()(x)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (ddx,) = torch.autograd.grad(dx.sum(), x)
    kept = expected_mask(x, P, 3)
    assert torch.equal(ddx != 0, kept)
    scale = kept.numel() / kept.sum()
    torch.testing.assert_close(ddx[kept].float().mean(), 2 * scale**2, rtol=2e-2, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    x = maps((2, 3, 14, 14)).requires_grad_()
    layers = torch.nn.Sequential(fd.DropBlock2d(P), torch.nn.Tanh(), fd.DropBlock2d(P, 3))
    torch.manual_seed(0)
    expected = layers(x)
    torch.manual_seed(0)
    y = checkpoint(layers, x, use_reentrant=reentrant)
    assert torch.equal(y, expected)
    found, other = (torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in (expected, y)
                    ) if not reentrant else (None, None)  # fmt: skip
    if reentrant:
        found = torch.autograd.grad(expected.sum(), x)[0]
        y.sum().backward()
        other = x.grad
    assert torch.equal(found, other)


def saved_bytes(function, x):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = function(x)
    return sum(sizes.values()), y


@every_option
def test_saved(options):
    """The state and the count: nothing that grows with x."""
    x = maps((2, 8, 28, 28)).requires_grad_()
    saved, _ = saved_bytes(function_of(**options), x)
    assert saved <= 24


def test_a_state_that_was_changed_is_noticed():
    rng_state = STATE.clone()
    x = maps((2, 3, 9, 9)).requires_grad_()
    y = FF.drop_block(x, P, rng_state=rng_state)
    rng_state.add_(4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_no_gradient_no_graph():
    x = maps((2, 3, 9, 9))
    assert not FF.drop_block(x, P).requires_grad
    with torch.no_grad():
        assert not FF.drop_block(x.requires_grad_(), P).requires_grad
    with torch.inference_mode():
        FF.drop_block(maps((2, 3, 9, 9)), P)
