"""Derivatives of every order and mode, checkpointing, and what is saved for backward."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from tests.helpers import same_bits
from tests.noise.calls import every_call, every_drawing_call
from tests.noise.noise_call import STATE


def function_of(call, tensors, keys=None, **options):
    """The call as a function of some tensors, by default those that there is a gradient by."""
    keys = keys or call.differentiable

    def function(*values):
        return call.ours({**tensors, **dict(zip(keys, values, strict=True))}, **options)

    return function, [tensors[key] for key in keys]


@pytest.mark.parametrize("shape", [(5,), (2, 3, 3)], ids=str)
@every_call
def test_gradcheck(call, shape):
    function, values = function_of(call, call.tensors_of(shape, torch.float64))
    assert gradcheck(function, values, check_forward_ad=True)
    assert gradgradcheck(function, values)


@every_drawing_call
def test_gradcheck_of_shared_noise(call):
    tensors = call.tensors_of((3, 4), torch.float64)
    function, values = function_of(call, tensors, shared_dims=(1,))
    assert gradcheck(function, values)
    assert gradgradcheck(function, values)


@every_call
def test_forward_mode(call):
    function, values = function_of(call, call.tensors_of((70,)))
    tangents = [torch.randn_like(value) for value in values]
    with forward_ad.dual_level():
        duals = [
            forward_ad.make_dual(value.detach(), tangent)
            for value, tangent in zip(values, tangents, strict=True)
        ]
        result, tangent = forward_ad.unpack_dual(function(*duals))
    expected = function(*values)
    assert torch.allclose(result, expected, rtol=1e-5, atol=1e-6)
    # The transposed product is the same number.
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, values, upstream)
    forward = (tangent.double() * upstream).sum()
    backward = sum((g.double() * t).sum() for g, t in zip(gradients, tangents, strict=True))
    assert torch.allclose(forward, backward, rtol=1e-4, atol=1e-5)


@every_call
def test_func_transforms(call):
    tensors = call.tensors_of((6, 20))
    function, values = function_of(call, tensors)
    plain = [value.detach() for value in values]
    everything = tuple(range(len(plain)))
    found = torch.func.grad(lambda *v: function(*v).square().sum(), everything)(*plain)
    expected = torch.autograd.grad(function(*values).square().sum(), values)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@every_call
def test_vmap_with_one_state(call):
    """Every slice gets the noise of its own shape, which is the same for all."""
    tensors = {k: t.detach() for k, t in call.tensors_of((4, 30)).items()}
    function, batches = function_of(call, tensors, call.elementwise)
    result = torch.func.vmap(function)(*batches)
    for i, row in enumerate(result):
        single = function(*(batch[i] for batch in batches))
        assert torch.allclose(row, single, rtol=1e-5, atol=1e-6)


@every_drawing_call
def test_vmap_randomness(call):
    tensors = {k: t.detach() for k, t in call.tensors_of((4, 30)).items()}
    tensors = call.map_elementwise(torch.zeros_like, tensors) | {"x": torch.ones(4, 30)}
    function, batches = function_of(call, tensors, call.elementwise, rng_state=None)

    def mapped(randomness):
        return torch.func.vmap(function, randomness=randomness)(*batches)

    with pytest.raises(RuntimeError, match="randomness"):
        mapped("error")
    same, different = mapped("same"), mapped("different")
    assert all(torch.equal(row, same[0]) for row in same[1:])
    assert not any(torch.equal(row, different[0]) for row in different[1:])


@pytest.mark.parametrize("reentrant", [True, False])
@every_drawing_call
def test_checkpointing(call, reentrant):
    """Recomputed noise is that of the first pass."""
    function, values = function_of(call, call.tensors_of((500,)), rng_state=None)
    found = []
    for run in (
        function,
        lambda *v: checkpoint(lambda *w: function(*w), *v, use_reentrant=reentrant),
    ):
        torch.manual_seed(3)
        result = run(*values)
        loss = result.square().sum()
        for value in values:
            value.grad = None
        loss.backward()
        found.append([result, *(value.grad for value in values)])
    for one, other in zip(*found, strict=True):
        assert same_bits(one, other)


@every_call
def test_nothing_is_stored(call):
    """Backward keeps the inputs that it needs and the state."""
    tensors = call.tensors_of((1000,))
    state = STATE.clone()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.untyped_storage().data_ptr()), t)[1], lambda t: t
    ):
        call.ours(tensors, rng_state=state)
    needed = [tensors[key] for key in call.saved] + [state] * call.draws
    assert set(saved) == {t.untyped_storage().data_ptr() for t in needed}


@every_call
def test_changed_inputs_are_noticed(call):
    for key in call.tensors_of((10,)):
        tensors = call.tensors_of((10,))
        tensors[key] = tensors[key] * 1
        result = call.ours(tensors)
        with torch.no_grad():
            tensors[key].mul_(2)
        if key in call.saved:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                result.sum().backward()
        else:
            result.sum().backward()


@every_call
def test_gradients_through_the_backward_operators(call):
    """`create_graph=True` gives the derivative of the derivative, of the same noise."""
    function, values = function_of(call, call.tensors_of((8,), torch.float64))
    first = torch.autograd.grad(function(*values).square().sum(), values, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), values)
    for value in second:
        assert bool(value.isfinite().all()) and bool((value != 0).any())
