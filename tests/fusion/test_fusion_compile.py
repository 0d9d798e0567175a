"""torch.compile of fused models."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

import fused_dropout as fd
from tests.fusion.fusing import classes, decoder_layer, encoder_layer, fused_copy, mlp, seeded


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, TOKENS = tensor(4, 8), tensor(2, 5, 16)
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)


def counted(model, **options):
    """A compiled model, and the list of the graphs that are compiled."""
    graphs = []

    def record(graph, inputs):
        graphs.append(graph)
        return lookup_backend("aot_eager")(graph, inputs)

    return torch.compile(model, backend=record, fullgraph=True, **options), graphs


def step(model, *inputs, seed=1, **arguments):
    """Output and all gradients."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    y = seeded(model, *inputs, seed=seed, **arguments)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad(y.square().sum(), [*inputs, *parameters])]


def assert_steps(model, other, *inputs, **arguments):
    for a, b in zip(
        step(model, *inputs, **arguments), step(other, *inputs, **arguments), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def number(graphs):
    """The number of graphs, without the empty ones that a restart of the analysis leaves."""
    return sum(len(graph.graph.nodes) > 0 for graph in graphs)


def no_recompilation():
    return torch._dynamo.config.patch(error_on_recompile=True)


MODELS = {
    "mlp": (mlp, (X,), {}),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ELU(0.5), nn.Dropout2d(0.3)),
        (tensor(2, 3, 5, 6),),
        {},
    ),
    "encoder": (encoder_layer, (TOKENS,), {"src_mask": CAUSAL, "is_causal": True}),
    "decoder": (lambda: decoder_layer(norm_first=True), (TOKENS, TOKENS), {"tgt_mask": CAUSAL}),
}


@pytest.mark.parametrize("name", MODELS)
def test_compiled_equals_eager(name):
    """One graph in training, with the masks of eager code for each seed, and one in evaluation."""
    build, inputs, arguments = MODELS[name]
    model = fused_copy(build())
    compiled, graphs = counted(model)
    assert_steps(compiled, model, *inputs, **arguments)
    assert number(graphs) == 1
    with no_recompilation():
        assert_steps(compiled, model, *inputs, seed=2, **arguments)
        a, b = (step(compiled, *inputs, seed=seed, **arguments)[0] for seed in (3, 4))
        assert not torch.equal(a, b)
    model.eval()
    torch.testing.assert_close(compiled(*inputs, **arguments), model(*inputs, **arguments))
    assert number(graphs) == 2
    assert not any("fused_dropout" in str(node.target) for node in graphs[-1].graph.nodes)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_inductor_equals_eager(name):
    build, inputs, arguments = MODELS[name]
    model = fused_copy(build())
    with torch._inductor.config.patch(fx_graph_cache=False):
        assert_steps(torch.compile(model, fullgraph=True), model, *inputs, **arguments)


def test_new_value_of_a_tensor_p():
    layer = encoder_layer()
    layer.self_attn.dropout = 0.0  # torch's attention does not accept a tensor
    model = fused_copy(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Dropout(), layer))
    p = torch.tensor(0.1, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
    compiled, graphs = counted(model)
    step(compiled, TOKENS)
    with no_recompilation():
        for value in (0.5, 0.0, 0.9, 1.0):
            p.fill_(value)
            assert_steps(compiled, model, TOKENS)
    assert number(graphs) == 1


@pytest.mark.parametrize("name", ["mlp", pytest.param("encoder", marks=pytest.mark.full)])
def test_changed_requires_grad(name):
    """The fused model compiles no more often than the unfused one, and the results are right."""
    build, inputs, _ = MODELS[name]
    model, counts = build(), []
    for one in (model, fused_copy(model)):
        torch._dynamo.reset()
        compiled, graphs = counted(one)
        first = next(one.parameters())
        for flag in (True, False, True, False):
            first.requires_grad_(flag)
            assert_steps(compiled, one, *inputs)
        counts.append(number(graphs))
    assert counts[1] <= counts[0]


@pytest.mark.parametrize(
    "build, width", [(mlp, 8), pytest.param(encoder_layer, 16, marks=pytest.mark.full)]
)
def test_changed_shapes(build, width):
    model = fused_copy(build())
    compiled, graphs = counted(model, dynamic=True)
    for length in (5, 6, 9):
        assert_steps(compiled, model, tensor(2, length, width))
    assert number(graphs) == 1


def test_changed_training():
    model = fused_copy(mlp())
    compiled, _ = counted(model)
    for training, drops in ((True, True), (False, False), (False, True), (True, False)):
        model.train(training)
        model[2].train(drops)
        assert_steps(compiled, model, X)
        assert torch.equal(compiled(X), compiled(X)) != drops


def test_hooks_added_after_compiling():
    """The compiler checks for new hooks only if `skip_nnmodule_hook_guards` is False."""
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        for build, name, x in ((mlp, "0", X), (encoder_layer, "linear1", TOKENS)):
            torch._dynamo.reset()
            model = fused_copy(build(), ["sequential", "torch.nn"])
            compiled = torch.compile(model, backend="eager")
            compiled(x)
            handle = model.get_submodule(name).register_forward_hook(lambda *_: _[2] * 2)
            assert torch.allclose(seeded(compiled, x), seeded(model, x))
            handle.remove()
            assert torch.allclose(seeded(compiled, x), seeded(model, x))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp(0.0)

    def forward(self, x):
        return self.body(x).sin()


def test_fused_after_compiling():
    model = Head()
    compiled, graphs = counted(model)
    before = step(compiled, X)
    report = fd.fuse(compiled)
    assert [site.name for site in report.fused] == ["_orig_mod.body", "_orig_mod.body.2"]
    for a, b in zip(step(compiled, X), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert number(graphs) == 2
    assert any("fused_dropout" in str(node.target) for node in graphs[-1].graph.nodes)
    fd.unfuse(compiled)
    assert classes(model) == classes(Head())
    assert all(torch.equal(a, b) for a, b in zip(step(compiled, X), before, strict=True))


def test_module_that_compiles_itself():
    """`model.compile()` before `fuse`. A deepcopy of the model is eager."""
    model = Head()
    model.body[2].p = 0.3
    model.compile(backend="aot_eager", fullgraph=True)
    model(X)
    fd.fuse(model)
    eager = copy.deepcopy(model)
    assert eager._compiled_call_impl is None
    torch.testing.assert_close(seeded(model, X), seeded(eager, X))


def test_changed_p_of_a_layer():
    model = fused_copy(mlp(0.3))
    compiled, _ = counted(model)
    for p in (0.3, 0.6, 0.0):
        model[2].p = p
        assert_steps(compiled, model, X)
