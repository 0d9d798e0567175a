"""torch.compile with checkpointing, CUDA graphs, autocast and transforms."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.compile.compiling import (
    STATE,
    VECTOR,
    assert_equal,
    compiled,
    every_quick_backend,
    results_of,
    several,
    tensor,
)


@pytest.mark.parametrize(
    "backend, where", [("aot_eager", "inside"), ("aot_eager", "outside"), ("eager", "outside")]
)
def test_checkpoint(backend, where):
    """Recomputed masks are those of the forward pass.

    Inside of a function compiled by the backend `eager` torch does not restore the generator, and
    its own dropout recomputes another mask too.
    """

    def block(x):
        return FF.bias_act_dropout(FF.dropout(x.sin(), 0.5), None, 0.4, "gelu").cos()

    def inside(x):
        return checkpoint(block, checkpoint(block, x, use_reentrant=False), use_reentrant=False)

    if where == "inside":
        call = compiled(inside, backend)
    else:
        inner = compiled(block, backend)

        def call(x):
            return checkpoint(inner, checkpoint(inner, x, use_reentrant=False), use_reentrant=False)

    x = tensor(32, 32)
    assert_equal(results_of(call, x), results_of(lambda x: block(block(x)), x))


def test_checkpoint_on_inductor():
    def block(x):
        return FF.bias_act_dropout(x.sin(), None, 0.4, "gelu").cos()

    call = compiled(lambda x: checkpoint(block, x, use_reentrant=False), "inductor")
    x = tensor(32, 32)
    for ours, theirs in zip(results_of(call, x), results_of(block, x), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_reduce_overhead_on_the_cpu():
    """CUDA graphs are no matter there: it just runs."""
    call = torch.compile(several, mode="reduce-overhead", fullgraph=True)
    x = tensor(4, 6)
    for seed in (0, 1):
        for ours, theirs in zip(
            results_of(call, x, seed=seed), results_of(several, x, seed=seed), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


def test_autocast():
    """The dtype and the values of eager."""
    model = fd.MLP(6, 16, 3, p=0.3)

    def call(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return FF.dropout(model(x), 0.2)

    x = tensor(8, 6)
    ours, theirs = results_of(compiled(call), x), results_of(call, x)
    assert ours[0].dtype == torch.bfloat16
    assert_equal(ours, theirs)


@every_quick_backend
def test_generator_is_refused(backend):
    generator = torch.Generator()

    def call(x):
        return FF.dropout(x, generator=generator)

    with pytest.raises(Exception, match="rng_state="):
        compiled(call, backend)(tensor(4))


def test_transforms_inside_a_compiled_function():
    def call(x):
        return torch.func.grad(lambda x: FF.dropout(x, 0.5, rng_state=STATE).pow(2).sum())(x)

    x = tensor(16)
    torch.testing.assert_close(compiled(call)(x), call(x))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_inside_a_compiled_function(randomness):
    def call(x):
        return torch.func.vmap(lambda row: FF.dropout(row, 0.5), randomness=randomness)(x)

    x = torch.ones(4, 64)
    masks = {tuple(row) for row in compiled(call)(x).tolist()}
    assert len(masks) == (1 if randomness == "same" else 4)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_upstream_gradients_of_any_layout(activation):
    """Their strides are not known when backward is compiled."""

    def call(x):
        return FF.bias_act_dropout(x, VECTOR, 0.4, activation, rng_state=STATE)

    x = tensor(4, 6, grad=True)
    y, eager = compiled(call)(x), call(x)
    for upstream in (
        torch.randn(6, 4).t(),
        torch.randn(6).expand(4, 6),
        torch.randn(4, 12)[:, ::2],
    ):
        ours, theirs = (
            torch.autograd.grad(one, x, upstream, retain_graph=True)[0] for one in (y, eager)
        )
        assert torch.equal(ours, theirs)


def test_double_backward_of_a_compiled_function():
    """Not supported by AOTAutograd, which says so; on the backend `eager` it works."""
    x = tensor(16, grad=True)
    y = compiled(lambda x: FF.bias_act_dropout(x, None, 0.5, "gelu", rng_state=STATE), "eager")(x)
    (first,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    wanted = reference.bias_act_dropout(x, None, 0.5, "gelu", STATE)
    (first,) = torch.autograd.grad(wanted.pow(2).sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.sum(), x)[0])
