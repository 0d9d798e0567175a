"""Derivatives of the row operators beyond the plain backward pass, and what they save for it.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import pytest
import torch
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from tests.module_helpers import drawing_nothing
from tests.row_operators.calls import (
    CALLS,
    gradients_of,
    is_norm,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

SHAPE = (3, 5)


def as_function(call, name, tensors, **options):
    """A function of the tensors in their order."""
    keys = list(tensors)

    def function(*values):
        results = call(name, dict(zip(keys, values, strict=True)), **options)
        return results if len(results) > 1 else results[0]

    return function, list(tensors.values())


def test_gradcheck(name):
    function, values = as_function(ours, name, tensors_of(name, SHAPE, torch.float64))
    assert gradcheck(function, values, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, values, check_fwd_over_rev=True)


@pytest.mark.parametrize("options", [{"mode": "alpha"}, {"shared_dims": (0,)}, {"p": 1.0}], ids=str)
def test_gradcheck_of_options(example, options):
    function, values = as_function(
        ours, example, tensors_of(example, SHAPE, torch.float64), **options
    )
    assert gradcheck(function, values, check_forward_ad=True)
    assert gradgradcheck(function, values)


def test_only_what_is_asked_for(name):
    """Each gradient alone is what it is among the others."""
    tensors = tensors_of(name, (40, 33))
    results = ours(name, tensors)
    upstream = upstream_of(results)
    expected = gradients_of(results, tensors, upstream)
    for key in expected:
        alone = {k: v.detach().requires_grad_(k == key) for k, v in tensors.items()}
        found = gradients_of(ours(name, alone), alone, upstream)
        assert list(found) == [key]
        assert torch.equal(found[key], expected[key]), key


def test_torch_func(name):
    """grad, jacrev, jvp and vmap over a batch of calls with one mask."""
    tensors = tensors_of(name, SHAPE, torch.float64, grad=False)
    function, values = as_function(ours, name, tensors)
    reference, _ = as_function(theirs, name, tensors)

    def total(call):
        def sum_of(*args):
            results = call(*args)
            return sum(one.square().sum() for one in torch.utils._pytree.tree_leaves(results))

        return sum_of

    found = torch.func.grad(total(function))(*values)
    torch.testing.assert_close(found, torch.func.grad(total(reference))(*values))
    found = torch.func.jacrev(total(function))(*values)
    torch.testing.assert_close(found, torch.func.jacrev(total(reference))(*values))
    tangents = tuple(torch.randn_like(value) for value in values)
    found = torch.func.jvp(total(function), tuple(values), tangents)
    torch.testing.assert_close(found, torch.func.jvp(total(reference), tuple(values), tangents))
    batch = [torch.stack([value, value * 2]) for value in values]
    mapped = torch.vmap(function)(*batch)
    single = [function(*(value[i] for value in batch)) for i in range(2)]
    for i in range(2):
        one = torch.utils._pytree.tree_map(lambda t: t[i], mapped)  # noqa: B023
        torch.testing.assert_close(one, single[i])


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_randomness_of_vmap(name, randomness):
    tensors = tensors_of(name, (6, 20), grad=False)
    function, values = as_function(ours, name, tensors, rng_state=None)
    batch = [torch.stack([value, value]) for value in values]
    if randomness == "error":
        with pytest.raises(RuntimeError, match="randomness"):
            torch.vmap(function, randomness=randomness)(*batch)
        return
    first, second = torch.utils._pytree.tree_leaves(
        torch.vmap(function, randomness=randomness)(*batch)
    )[0]
    # The composition's operators round the end of a tensor in another way than its vectors.
    assert torch.allclose(first, second, rtol=1e-5, atol=1e-6) == (randomness == "same")


def saved_by(call):
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return call(), saved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_saved(name, dtype):
    """Nothing but inputs, results, 16 bytes, and two numbers a row: no mask."""
    tensors = tensors_of(name, (40, 64), dtype)
    results, saved = saved_by(lambda: ours(name, tensors, rng_state=None))
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in saved}
    for tensor in (*results, *tensors.values()):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    statistics = 0
    if is_norm(name):
        statistics = 40 * 4 * (2 if CALLS[name]["norm"] == "layer_norm" else 1)
    assert sum(t.untyped_storage().nbytes() for t in storages.values()) == 16 + statistics


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(name, use_reentrant):
    """The recomputed call draws the mask of the first."""
    tensors = tensors_of(name, (20, 30))
    function, values = as_function(ours, name, tensors, rng_state=None)

    def run(call):
        torch.manual_seed(3)
        results = call(*values)
        results = results if isinstance(results, tuple) else (results,)
        total = sum(one.square().sum() for one in results)
        leaves = [value for value in values if value.requires_grad]
        for leaf in leaves:
            leaf.grad = None
        total.backward()
        return [total.detach(), *(leaf.grad.clone() for leaf in leaves)]

    plain = run(function)
    again = run(lambda *args: checkpoint(function, *args, use_reentrant=use_reentrant))
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_drawn_where_nothing_is_dropped(name):
    tensors = tensors_of(name, (4, 6))
    for options in ({"p": 0.0}, {"p": 1.0}, {"training": False}):
        with drawing_nothing():
            ours(name, tensors, rng_state=None, **options)


def test_an_expanded_gradient(name):
    """As that of a sum: one number, with strides of zero."""
    tensors = tensors_of(name, (6, 33), torch.float64)
    results = ours(name, tensors)
    expanded = [torch.ones((), dtype=one.dtype).expand(one.shape) for one in results]
    dense = [dy.clone(memory_format=torch.contiguous_format) for dy in expanded]
    expected = gradients_of(results, tensors, dense)
    for key, gradient in gradients_of(results, tensors, expanded).items():
        assert torch.equal(gradient, expected[key]), key
