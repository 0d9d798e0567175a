"""The row operators under the compiler: schemas, fake kernels, masks, recompilation, export.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import pytest
import torch
from torch.library import opcheck

from tests.row_operators.calls import (
    CALLS,
    STATE,
    P,
    activation_of,
    is_norm,
    ours,
    tensors_of,
)

OPERATORS = torch.ops.fused_dropout


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiling_nothing():
    """A new graph is an error inside."""
    return torch._dynamo.config.patch(error_on_recompile=True)


def operator_arguments(name, tensors, rng_state=STATE, p=P, p_tensor=None, **changes):
    options = {
        "p": p,
        "p_tensor": p_tensor,
        "activation": activation_of(name),
        "negative_slope": None,
        "alpha": None,
        "mode": "inverted",
        "training": True,
        "shared_dims": [],
        "mask_strides": None,
        "mask_offset": 0,
        **changes,
    }
    t = tensors
    if not is_norm(name):
        leading = (t["x"], t.get("bias"), rng_state, CALLS[name]["gate_first"])
        return OPERATORS.bias_glu_dropout.default, (*leading, *options.values())
    keys = ("x", "residual", "bias", "row_scale", "layer_scale", "weight", "norm_bias")
    leading = (*(t.get(key) for key in keys), rng_state)
    settings = (CALLS[name]["norm"], 1e-5, CALLS[name]["prenorm"])
    return OPERATORS.dropout_add_norm.default, (*leading, *settings, *options.values())


def test_opcheck(name):
    opcheck(*operator_arguments(name, tensors_of(name, (4, 6))))


@pytest.mark.parametrize("shape", [(2, 3, 5), (7,), (0, 6)], ids=str)
def test_opcheck_of_other_shapes(example, shape):
    opcheck(*operator_arguments(example, tensors_of(example, shape)))


CHANGES = [
    {"mode": "classic"},
    {"training": False, "rng_state": None},
    {"p": 1.0, "rng_state": None},
    {"shared_dims": [1]},
    {"p_tensor": torch.tensor(0.25, dtype=torch.float64)},
    {"mask_strides": [8, 1], "mask_offset": 3},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_opcheck_of_options(example, changes):
    opcheck(*operator_arguments(example, tensors_of(example, (4, 6)), **changes))


def test_opcheck_of_layouts_and_dtypes(example):
    tensors = tensors_of(example, (4, 5, 6), grad=False)
    for x in (
        tensors["x"].permute(2, 1, 0).contiguous().permute(2, 1, 0),
        tensors["x"].transpose(0, 1).contiguous().transpose(0, 1),
        torch.cat((tensors["x"], tensors["x"]))[::2],
    ):
        opcheck(*operator_arguments(example, {**tensors, "x": x.requires_grad_()}))
    if is_norm(example):
        mixed = tensors_of(example, (4, 6), torch.bfloat16, residual_dtype=torch.float32)
        opcheck(*operator_arguments(example, mixed))


def run(function, tensors, seed=0):
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    torch.manual_seed(seed)
    results = function(tensors)
    total = sum((one * torch.linspace(-1, 1, one.shape[-1])).sum() for one in results)
    return [*(one.detach() for one in results), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(name, backend):
    """The same masks from the same seed, and the same bits."""

    def function(tensors):
        return ours(name, tensors, rng_state=None)

    tensors = tensors_of(name, (6, 20))
    compiled = torch.compile(function, backend=backend, fullgraph=True)
    for one, other in zip(run(function, tensors), run(compiled, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "backend, grad", [("aot_eager", False), ("aot_eager", True), ("inductor", True)]
)
def test_two_calls_in_one_graph_differ(example, backend, grad):
    tensors = tensors_of(example, (6, 20), grad=grad)

    @torch.compile(backend=backend, fullgraph=True)
    def twice(tensors):
        return ours(example, tensors, rng_state=None)[0], ours(example, tensors, rng_state=None)[0]

    first, second = twice(tensors)
    assert not torch.equal(first, second)


def test_dynamic_shapes(example):
    compiled = torch.compile(
        lambda tensors: ours(example, tensors), backend="aot_eager", fullgraph=True, dynamic=True
    )
    compiled(tensors_of(example, (4, 6)))
    with compiling_nothing():
        for rows, width in ((7, 6), (5, 10), (9, 33)):
            tensors = tensors_of(example, (rows, width))
            for one, other in zip(compiled(tensors), ours(example, tensors), strict=True):
                assert torch.equal(one, other)


def test_a_tensor_p_takes_new_values(example):
    compiled = torch.compile(
        lambda tensors, p: ours(example, tensors, p=p), backend="aot_eager", fullgraph=True
    )
    tensors = tensors_of(example, (5, 8))
    compiled(tensors, torch.tensor(0.3, dtype=torch.float64))
    with compiling_nothing():
        for p in (0.1, 0.5, 0.0, 1.0):
            one = compiled(tensors, torch.tensor(p, dtype=torch.float64))
            for found, expected in zip(one, ours(example, tensors, p=p), strict=True):
                assert torch.equal(found, expected)


def test_recomputation_in_a_compiled_graph(example):
    """Under checkpointing, forward and backward of a graph use one mask."""
    tensors = tensors_of(example, (6, 20))

    def function(tensors):
        return ours(example, tensors, rng_state=None)

    def checkpointed(tensors):
        return torch.utils.checkpoint.checkpoint(function, tensors, use_reentrant=False)

    compiled = torch.compile(checkpointed, backend="aot_eager", fullgraph=True)
    for one, other in zip(run(function, tensors), run(compiled, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
