"""torch.fx and make_fx."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.compile.compiling import (
    STATE,
    VECTOR,
    Net,
    assert_equal,
    operators_of,
    results_of,
    tensor,
)
from tests.module_helpers import drawing_nothing, seed_and_state


class Functionals(nn.Module):
    def forward(self, x, residual):
        x = FF.bias_act_dropout(x, None, 0.3, "gelu", self.training)
        x = FF.bias_dropout_add(x, None, residual, p=0.3, training=self.training)
        return FF.dropout(x, 0.3, self.training)


def test_symbolic_trace_of_functionals():
    model = Functionals()
    traced = torch.fx.symbolic_trace(model)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [target.__name__ for target in targets] == [
        "bias_act_dropout",
        "bias_dropout_add",
        "dropout",
    ]
    x, residual = tensor(4, 6), tensor(4, 6)
    for one in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert_equal(results_of(one, x, residual), results_of(model, x, residual))


def test_symbolic_trace_of_modules():
    """The layers' own classes stay visible, or the functional does."""
    model = Net()
    traced = torch.fx.symbolic_trace(model)
    traced.graph.lint()
    x = tensor(4, 6)
    for one in (traced, copy.deepcopy(traced)):
        assert_equal(results_of(one, x), results_of(model, x))
    model.eval()
    traced = torch.fx.symbolic_trace(model)
    with drawing_nothing():
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize(
    "layer", [fd.Dropout1d(), fd.Dropout2d(), fd.Dropout3d(), fd.FeatureAlphaDropout()], ids=str
)
def test_symbolic_trace_of_feature_layers(layer):
    """Their checks read the number of dimensions, so that a tracer has to take them as leaves."""
    model = nn.Sequential(nn.Identity(), layer)
    traced = torch.fx.symbolic_trace(model)
    shape = {fd.Dropout1d: (2, 3, 4), fd.Dropout3d: (2, 3, 4, 2, 2)}.get(type(layer), (2, 3, 4, 2))
    assert_equal(results_of(traced, tensor(*shape)), results_of(model, tensor(*shape)))


def test_make_fx():
    """A graph of operators, the draw among them, that runs."""
    x = tensor(16, 6)
    graph = make_fx(lambda x: FF.bias_act_dropout(x, VECTOR, 0.4, "gelu"))(x)
    assert "fused_dropout::draw_rng_state" in operators_of(graph.graph)
    assert "fused_dropout::bias_act_dropout" in operators_of(graph.graph)
    state = seed_and_state(9)
    wanted = reference.bias_act_dropout(x, VECTOR, 0.4, "gelu", state)
    torch.testing.assert_close(graph(x), wanted)


@pytest.mark.parametrize("tracing", ["fake", "symbolic"])
def test_make_fx_of_a_gradient(tracing):
    def step(x):
        y = FF.bias_act_dropout(x, None, 0.4, "gelu", rng_state=STATE.clone())
        return torch.autograd.grad(y.sum(), x)[0]

    x = tensor(16, 6, grad=True)
    graph = make_fx(step, tracing_mode=tracing, _allow_non_fake_inputs=True)(x)
    assert "fused_dropout::bias_act_dropout_backward" in operators_of(graph.graph)
    torch.testing.assert_close(graph(x), step(x))
