"""Gradients use the masks of the forward pass, also where the compiler recomputes it."""

import functools

import pytest
import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.compile.compiling import assert_equal, compiled, results_of, tensor
from tests.noise.calls import DRAWING

# The first that splits forward and backward as Inductor does, without generating code.
BACKEND = "aot_eager_decomp_partition"
SIZE = 6
WEIGHT = tensor(SIZE)
SETTINGS = {
    "aggressive": {"aggressive_recomputation": True},
    "budget 0.0": {"activation_memory_budget": 0.0},
    "budget 0.3": {"activation_memory_budget": 0.3},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)


def noise(call, x, **random):
    others = dict.fromkeys(call.elementwise[1:], x.sin()) | dict.fromkeys(call.scalars, x.mean())
    return call.of_x(x, **others, **random)


CALLS = {
    "dropout": lambda x, **random: FF.dropout(x, 0.4, **random),
    "dropout_": lambda x, **random: FF.dropout(x * 1, 0.4, inplace=True, **random),
    "bias_act_dropout": lambda x, **random: FF.bias_act_dropout(x, WEIGHT, 0.4, "gelu", **random),
    "bias_dropout_add": lambda x, **random: FF.bias_dropout_add(x, None, x.sin(), 0.4, **random),
    "bias_glu_dropout": lambda x, **random: FF.bias_glu_dropout(
        torch.cat([x, x.sin()], -1), None, 0.4, **random
    ),
    "dropout_add_layer_norm": lambda x, **random: FF.dropout_add_layer_norm(
        x, x.sin(), WEIGHT, p=0.4, **random
    ),
    "dropout_add_rms_norm": lambda x, **random: FF.dropout_add_rms_norm(
        x, x.sin(), WEIGHT, p=0.4, **random
    ),
    **{call.function: functools.partial(noise, call) for call in DRAWING.values()},
    "drop_block": lambda x, **random: FF.drop_block(x[None, None], 0.4, 3, **random)[0, 0],
    "embedding_dropout": lambda x, **random: FF.embedding_dropout(
        torch.arange(SIZE), x, 0.4, **random
    ),
    "scaled_dot_product_attention": lambda x, **random: FF.scaled_dot_product_attention(
        x[None], x[None], x[None], dropout_p=0.4, **random
    )[0],
}
MODULES = {
    "Dropout": lambda: fd.Dropout(0.4),
    "Dropout1d": lambda: fd.Dropout1d(0.4),
    "AlphaDropout": lambda: fd.AlphaDropout(0.4),
    "FeatureAlphaDropout": lambda: fd.FeatureAlphaDropout(0.4),
    "LockedDropout": lambda: fd.LockedDropout(0.4),
    "DropPath": lambda: fd.DropPath(0.4),
    "BiasActDropout": lambda: fd.BiasActDropout(SIZE, 0.4),
    "LinearActDropout": lambda: fd.LinearActDropout(SIZE, SIZE, p=0.4),
    "MLP": lambda: fd.MLP(SIZE, SIZE, SIZE, p=0.4),
    "LinearGLUDropout": lambda: fd.LinearGLUDropout(SIZE, SIZE, p=0.4),
    "GatedMLP": lambda: fd.GatedMLP(SIZE, SIZE, SIZE, p=0.4),
    "DropConnectLinear": lambda: fd.DropConnectLinear(SIZE, SIZE, p=0.4),
    **{call.module.__name__: call.make_module for call in DRAWING.values()},
}


def deep(drop):
    """A chain whose backward needs each mask, and between them what is cheap to compute again."""

    def call(x):
        for index in range(2):
            x = drop((x @ x).sin() + 2, index).cos()
        return x

    return call


def input_of_chain():
    return 0.3 * tensor(SIZE, SIZE)


def check(call, settings, same=assert_equal, **options):
    """Output, gradients and what is left of the generator are those of eager."""
    x = input_of_chain()
    wanted = results_of(call, x)
    left = torch.get_rng_state()
    with torch._functorch.config.patch(settings):
        ours = results_of(compiled(call, BACKEND, **options), x)
    assert torch.equal(torch.get_rng_state(), left)
    same(ours, wanted)


def assert_close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def given(name):
    states = [fd.new_rng_state() for _ in range(2)]
    return lambda x, index: CALLS[name](x, rng_state=states[index])


SOURCES = {
    "inside": lambda name: lambda x, _: CALLS[name](x),
    "by hand": lambda name: lambda x, _: CALLS[name](x, rng_state=fd.new_rng_state()),
    "given": given,
}


@every_setting
@pytest.mark.parametrize("source", SOURCES)
def test_source_of_the_state(source, setting):
    check(deep(SOURCES[source]("dropout")), SETTINGS[setting])


@pytest.mark.parametrize("name", CALLS)
def test_every_function(name):
    """With the setting under which most is computed again."""
    rounds_elsewhere = name == "scaled_dot_product_attention"  # its products are decomposed
    same = assert_close if rounds_elsewhere else assert_equal
    check(deep(SOURCES["inside"](name)), SETTINGS["budget 0.0"], same)


@pytest.mark.parametrize("name", MODULES)
def test_every_module(name):
    torch.manual_seed(0)
    layer = MODULES[name]()
    check(deep(lambda x, _: layer(x)), SETTINGS["budget 0.3"])


@pytest.mark.parametrize("setting", ["budget 0.0", "budget 0.3"])
def test_inductor(setting):
    """Which rounds in other places."""
    call = deep(SOURCES["inside"]("bias_act_dropout"))
    with torch._functorch.config.patch(SETTINGS[setting]):
        ours = results_of(compiled(call, "inductor"), input_of_chain())
    assert_close(ours, results_of(call, input_of_chain()))


def test_dynamic_shapes():
    check(deep(SOURCES["inside"]("dropout")), SETTINGS["budget 0.3"], dynamic=True)


def checkpointed(**options):
    def block(x, _):
        return checkpoint(lambda x: FF.dropout(x.sin(), 0.4), x, use_reentrant=False, **options)

    return deep(block)


@every_setting
def test_checkpointed_region(setting):
    check(checkpointed(), SETTINGS[setting])


@pytest.mark.parametrize("policy", [None, *CheckpointPolicy], ids=str)
def test_selective_checkpointing(policy):
    """One policy for all operators, those that draw included; None: only matmul is saved."""

    def policy_of(context, operator, *args, **kwargs):
        if policy is None:
            matmul = operator is torch.ops.aten.mm.default
            return CheckpointPolicy.MUST_SAVE if matmul else CheckpointPolicy.PREFER_RECOMPUTE
        return policy

    context_fn = functools.partial(create_selective_checkpoint_contexts, policy_of)
    call = checkpointed(context_fn=context_fn)
    x = input_of_chain()
    with torch._functorch.config.patch(SETTINGS["budget 0.3"]):
        assert_equal(results_of(compiled(call, BACKEND), x), results_of(checkpointed(), x))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap(randomness):
    def rows(x):
        row = functools.partial(FF.dropout, p=0.4)
        return torch.func.vmap(lambda x: row(x.sin()), randomness=randomness)(x).cos()

    check(rows, SETTINGS["budget 0.0"])


@pytest.mark.skipif(
    not hasattr(torch.autograd.graph, "region_activation_memory_budget"),
    reason="this torch has no budget of a region",
)
@pytest.mark.parametrize("budget", [0.0, 0.3, 1.0])
def test_budget_of_a_region(budget):
    """It replaces that of the configuration."""
    plain = deep(SOURCES["inside"]("dropout"))

    def region(x):
        with torch.autograd.graph.region_activation_memory_budget(budget):
            return plain(x)

    x = input_of_chain()
    other = {"activation_memory_budget": 1.0 if budget == 0 else 0.0}
    with torch._functorch.config.patch(other):
        assert_equal(results_of(compiled(region, BACKEND), x), results_of(plain, x))


@torch.compiler.nested_compile_region
def nested_region(x, state=None):
    return FF.dropout(x.sin(), 0.4, rng_state=state)


@every_setting
def test_draw_in_a_subgraph(setting):
    """Where the subgraph may be computed again as a whole, a state has to be drawn outside."""
    with pytest.raises(Exception, match=r"new_rng_state\(\)"):
        check(deep(lambda x, _: nested_region(x)), SETTINGS[setting])
    torch._dynamo.reset()
    check(deep(lambda x, _: nested_region(x, fd.new_rng_state())), SETTINGS[setting])


def test_draw_in_a_subgraph_that_is_not_computed_again():
    check(deep(lambda x, _: nested_region(x)), {})
