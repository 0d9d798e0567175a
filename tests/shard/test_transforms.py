"""Shards under autograd's other modes, torch.func, checkpointing, the compiler, export and fx."""

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import ORDERS
from tests.shard.calls import (
    CALLS,
    NORMS,
    SHAPE,
    STATE,
    as_tuple,
    cut,
    gradients_of,
    parts_of,
    shard_of,
    tensors_of,
    upstream_of,
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def some_parts():
    """Three of the many, one of which has a single element along the dimension that is split."""
    return [parts_of("uneven")[1], parts_of("uneven")[2], parts_of("grid")[0]]


# ---------------------------------------------------------------- the compiler


# One function of each operator. The mask of a part is laid out before the operator is called.
EXAMPLES = ["dropout_", "gelu", "swiglu", "layer_norm", "gaussian"]


@pytest.mark.parametrize(
    "name, layout, dynamic",
    [
        *((name, "contiguous", None) for name in CALLS),
        *((name, "channels_last", True) for name in EXAMPLES),
    ],
)
def test_compiled(name, layout, dynamic):
    """Forward and gradients are those of eager calls."""
    full = tensors_of(name, order=ORDERS[layout])

    def call(tensors, rng_state, shard):
        return CALLS[name](tensors, rng_state=rng_state, shard=shard)

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for part in some_parts() if name in EXAMPLES else some_parts()[:1]:
        tensors = cut(full, part)
        # In a graph, an intermediate result does not always keep the stride of a single element.
        single = any(one.stop - one.start == 1 for one in part)
        shard = shard_of(part, order=ORDERS[layout] if single else None)
        wanted = as_tuple(call(tensors, STATE, shard))
        found = as_tuple(compiled(tensors, STATE, shard))
        upstream = upstream_of(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other)
            assert one.stride() == other.stride()
        expected = gradients_of(wanted, tensors, upstream)
        for key, gradient in gradients_of(found, tensors, upstream).items():
            assert (gradient is expected[key] is None) or torch.equal(gradient, expected[key]), key


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_shard_that_is_made_inside(backend):
    """Of symbolic sizes: one graph serves every rank and every length."""
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    def call(x, rng_state, index, count):
        return FF.dropout(
            x, 0.4, rng_state=rng_state, shard=fd.Shard.of(x, 1, index, count).along(0, 1, 2)
        )

    compiled = torch.compile(call, backend=counting, fullgraph=True, dynamic=True)
    for length in (4, 6, 10):
        for index in range(2, 4):
            x = torch.randn(3, length, 5)
            assert torch.equal(compiled(x, STATE, index, 5), call(x, STATE, index, 5))
    assert len(graphs) == 1


def test_other_places_soon_make_no_new_graph():
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph

    call = torch.compile(
        lambda x, shard: FF.dropout(x, rng_state=STATE, shard=shard),
        backend=counting,
        fullgraph=True,
    )
    x = torch.randn(4, 6)
    for index in range(2, 12):
        shard = fd.Shard((100, 6), (index, 0))
        assert torch.equal(call(x, shard), FF.dropout(x, rng_state=STATE, shard=shard))
    assert len(graphs) == 2


def test_compiled_draws():
    """As eager calls do, and two equal calls in one graph differ."""
    x, shard = torch.ones(64, 6), fd.Shard((256, 6), (64, 0))

    def twice(x):
        return FF.dropout(x, shard=shard), FF.dropout(x, shard=shard)

    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True)
    torch.manual_seed(1)
    found = compiled(x)
    torch.manual_seed(1)
    assert all(torch.equal(*pair) for pair in zip(found, twice(x), strict=True))
    assert not torch.equal(*found)


class Layer(torch.nn.Module):
    def __init__(self, shard):
        super().__init__()
        self.shard = shard

    def forward(self, x, rng_state):
        return FF.dropout(x, 0.4, rng_state=rng_state, shard=self.shard)


def test_export_and_fx():
    x = torch.randn(4, 6)
    layer = Layer(fd.Shard((12, 6), (8, 0)))
    exported = torch.export.export(layer, (x, STATE)).module()
    traced = torch.fx.symbolic_trace(layer)
    for found in (exported, traced):
        assert torch.equal(found(x, STATE), layer(x, STATE))


# ---------------------------------------------------------------- derivatives


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", EXAMPLES)
def test_checkpointing(name, reentrant):
    """With a state, and with one that is drawn again in recomputation."""
    for part in some_parts():
        own, shard = cut(tensors_of(name), part), shard_of(part)
        for options in ({"rng_state": STATE}, {}):

            def call(*tensors, own=own, shard=shard, options=options):
                tensors = dict(zip(own, tensors, strict=True))
                return CALLS[name](tensors, shard=shard, **options)

            torch.manual_seed(2)
            wanted = call(*own.values())
            upstream = upstream_of([wanted])
            expected = gradients_of([wanted], own, upstream)
            torch.manual_seed(2)
            found = checkpoint(call, *own.values(), use_reentrant=reentrant)
            assert torch.equal(found, wanted)
            for one in own.values():
                one.grad = None
            found.backward(upstream[0])
            assert all(torch.equal(one.grad, expected[key]) for key, one in own.items())


@pytest.mark.parametrize("name", [name for name in CALLS if name not in NORMS])
def test_torch_func(name):
    """grad, vjp, jvp and vmap of a part are parts of those of the full tensor."""
    tensors = {key: value.detach() for key, value in tensors_of(name).items()}
    (key, x), *_ = tensors.items()
    (full,) = as_tuple(CALLS[name](tensors, rng_state=STATE))
    for part in some_parts():
        own = {k: v.detach() for k, v in cut(tensors, part).items()}
        shard = shard_of(part)

        def call(x, own=own, shard=shard):
            return CALLS[name]({**own, key: x}, rng_state=STATE, shard=shard)

        torch.testing.assert_close(call(own[key]), full[part], rtol=0, atol=0)
        upstream = torch.linspace(-1, 1, full[part].numel()).view(full[part].shape)
        x = own[key].clone().requires_grad_()
        (expected,) = torch.autograd.grad(call(x), x, upstream)
        found = grad(lambda x, call=call, dy=upstream: (call(x) * dy).sum())(own[key])
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(vjp(call, own[key])[1](upstream)[0], expected)
        value, tangent = jvp(call, (own[key],), (torch.ones_like(own[key]),))
        torch.testing.assert_close(value, full[part])
        torch.testing.assert_close((tangent * upstream).sum(), expected.sum())
        many = torch.stack([own[key], 2 * own[key]])
        torch.testing.assert_close(vmap(call)(many), torch.stack([call(one) for one in many]))


def test_double_backward():
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    shard = fd.Shard((9, 10), (6, 5))

    def call(x):
        return FF.bias_act_dropout(x, None, 0.4, "tanh", rng_state=STATE, shard=shard)

    assert torch.autograd.gradcheck(call, x)
    assert torch.autograd.gradgradcheck(call, x)
    kept = reference.draws(reference.shard_index((3, 5), *((9, 10), (6, 5))), STATE)
    kept = kept < reference.keep_count(0.4)
    (first,) = torch.autograd.grad(call(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(first != 0, kept)
    assert torch.equal(second != 0, kept)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_that_draws(randomness):
    x, shard = torch.ones(3, 400), fd.Shard((1200,), (400,))
    y = vmap(lambda x: FF.dropout(x, shard=shard), randomness=randomness)(x)
    assert (y == y[0]).all() == (randomness == "same")


def test_autocast():
    part = parts_of("uneven")[1]
    x, bias = torch.randn(SHAPE), torch.randn(6)
    with torch.autocast("cpu", torch.bfloat16):
        full = FF.bias_dropout_add(x, bias, x.bfloat16(), rng_state=STATE)
        own = FF.bias_dropout_add(
            x[part], bias, x[part].bfloat16(), rng_state=STATE, shard=shard_of(part)
        )
    assert own.dtype == full.dtype
    assert torch.equal(own, full[part])
