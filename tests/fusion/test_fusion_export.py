"""Tools that look at ``forward`` of a fused model: signatures, export, TorchScript, pickles."""

import inspect
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import Net, decoder_layer, encoder_layer, fused_copy, mlp, seeded

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


class Functional(nn.Module):
    def forward(self, x, scale=2.0, *, shift=0):
        """Docstring."""
        return F.dropout(x * scale + shift, 0.5, self.training)


MODELS = {
    "encoder": (encoder_layer(), (TOKENS,)),
    "decoder": (decoder_layer(), (TOKENS, TOKENS)),
    "attention": (nn.MultiheadAttention(16, 4, dropout=0.1), (TOKENS, TOKENS, TOKENS)),
    "sequential": (mlp(), (X,)),
    "dropout": (nn.Dropout(0.5), (X,)),
    "functional": (Functional(), (X,)),
}
ALL = pytest.mark.parametrize("model, inputs", MODELS.values(), ids=MODELS.keys())


@ALL
def test_signature_and_docstring(model, inputs):
    fused = fused_copy(model)
    assert type(fused) is not type(model)
    assert inspect.signature(fused.forward) == inspect.signature(model.forward)
    assert fused.forward.__doc__ == model.forward.__doc__
    assert fused.forward.__name__ == "forward"


@ALL
def test_export_with_dynamic_shapes(model, inputs):
    """The batch is dynamic; its dimension is named by the arguments of the original forward."""
    fused = fused_copy(model).eval()
    names = list(inspect.signature(model.forward).parameters)[: len(inputs)]
    dim = 1 if isinstance(model, nn.MultiheadAttention) else 0
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = {name: {dim: batch} for name in names}
    program = torch.export.export(fused, inputs, dynamic_shapes=shapes)
    larger = tuple(torch.cat([x, x], dim) for x in inputs)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(program.module()(*larger)),
        torch.utils._pytree.tree_leaves(fused(*larger)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@ALL
def test_trace(model, inputs):
    fused = fused_copy(model).eval()
    traced = torch.jit.trace(fused, inputs, check_trace=False)
    for a, b in zip(
        torch.utils._pytree.tree_leaves(traced(*inputs)),
        torch.utils._pytree.tree_leaves(fused(*inputs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("inside", [False, True])
@ALL
def test_script_says_what_to_do(model, inputs, inside):
    fused = fused_copy(model)
    whole = nn.Sequential(nn.Identity(), fused) if inside else fused
    with pytest.raises(RuntimeError, match=r"is fused by fused_dropout.*Call fused_dropout.unfuse"):
        torch.jit.script(whole)
    assert type(whole[1] if inside else whole) is type(fused)


def test_script_after_unfuse():
    model = fd.unfuse(fused_copy(mlp())).eval()
    torch.testing.assert_close(torch.jit.script(model)(X), model(X))


@torch.fx.wrap
def noisy(x, width, p, training):
    """A function that is a leaf of graphs, because its control flow depends on its input."""
    return F.dropout(x, p, training) if x.shape[-1] == width else x


class CallsALeaf(nn.Module):
    def forward(self, x):
        return noisy(x, 8, 0.5, self.training)


FX_MODELS = {
    "sequential": (mlp, (X,)),
    "encoder in a sequential": (lambda: nn.Sequential(nn.Tanh(), encoder_layer()), (TOKENS,)),
    "decoder": (decoder_layer, (TOKENS, TOKENS)),
    "net": (Net, (torch.randn(2, 5, 8),)),
    "functional": (lambda: nn.Sequential(Functional()), (X,)),
    "leaf function": (CallsALeaf, (X,)),
    "leaf function inside": (lambda: nn.Sequential(nn.Linear(8, 8), CallsALeaf()), (X,)),
}


def nodes_of(graph):
    return [(node.op, node.name, node.target) for node in graph.nodes]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make, inputs", FX_MODELS.values(), ids=FX_MODELS.keys())
def test_fx_graph(make, inputs, training):
    """It is that of the unfused model. The layers that it calls are those of the fused model."""
    torch.manual_seed(0)
    model = make().train(training)
    fused = fused_copy(model)
    graph = torch.fx.symbolic_trace(fused)
    expected = torch.fx.symbolic_trace(model)
    assert nodes_of(graph.graph) == nodes_of(expected.graph)
    for node in graph.graph.find_nodes(op="call_module"):
        assert type(graph.get_submodule(node.target)) is type(fused.get_submodule(node.target))
    assert seeded(graph, *inputs).shape == seeded(expected, *inputs).shape
    if not training:
        torch.testing.assert_close(graph(*inputs), model(*inputs))


def test_fx_graph_of_a_call_by_keyword():
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = CallsALeaf()

        def forward(self, x):
            return self.layer(x=x)

    graph = torch.fx.symbolic_trace(fused_copy(Caller()))
    assert nodes_of(graph.graph) == nodes_of(torch.fx.symbolic_trace(Caller()).graph)


def test_a_pickle_that_torch_refuses_names_unfuse():
    file = io.BytesIO()
    torch.save(fused_copy(mlp()), file)
    file.seek(0)
    with pytest.raises(Exception, match="unfuse_before_saving"):
        torch.load(file)
