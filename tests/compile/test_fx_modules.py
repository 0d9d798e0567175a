"""torch.fx records calls of this package's modules, as it does of torch.nn's."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.every_module import MODULES, inputs_of

COMPOSED = {"MLP", "GatedMLP"}  # of layers that are recorded themselves


class Around(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 1.0


class AroundTwo(Around):
    def forward(self, x, residual):
        return self.layer(x, residual) * 1.0


def around(name):
    torch.manual_seed(0)
    cls = AroundTwo if len(MODULES[name].inputs) == 2 else Around
    return cls(MODULES[name].make())


def calls(traced, op="call_module"):
    return [node.target for node in traced.graph.nodes if node.op == op]


def assert_same_in_both_modes(one, other, inputs):
    """Whatever the mode that it was traced in."""
    results = []
    for training in (True, False):
        for model in (one.train(training), other.train(training)):
            torch.manual_seed(5)
            results.append(model(*inputs))
    assert torch.equal(results[0], results[1]) and torch.equal(results[2], results[3])
    assert not torch.allclose(results[0], results[2])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("name", MODULES)
def test_a_traced_model_changes_its_mode(name, training):
    model, inputs = around(name), inputs_of(name)
    traced = torch.fx.symbolic_trace(model.train(training))
    assert calls(traced) == (["layer.fc1", "layer.fc2"] if name in COMPOSED else ["layer"])
    for one in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert_same_in_both_modes(one, model, inputs)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Dropout(0.5),
        lambda: nn.AlphaDropout(0.5),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.5)),
        lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.5),
    ],
    ids=["Dropout", "AlphaDropout", "Sequential", "TransformerEncoderLayer"],
)
def test_a_fused_model_is_traced_as_the_unfused(make, training):
    torch.manual_seed(0)
    model = Around(make()).train(training)
    wanted = calls(torch.fx.symbolic_trace(model))
    assert fd.fuse(model)
    traced = torch.fx.symbolic_trace(model)
    assert calls(traced) == wanted
    results = []
    for mode in (True, False):
        torch.manual_seed(5)
        results.append(traced.train(mode)(torch.ones(6, 8)))
    assert not torch.allclose(*results)


@pytest.mark.parametrize("name", ["Dropout", "LinearActDropout", "DropoutAddLayerNorm"])
def test_tracers_of_other_people(name):
    """Those that ask torch's rule get a call of the module; those without leaves look inside."""

    class More(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return isinstance(module, nn.Sequential) or super().is_leaf_module(module, path)

    class None_(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return False

    model = around(name)
    assert calls(torch.fx.GraphModule(model, More().trace(model))) == ["layer"]
    inside = torch.fx.GraphModule(model, None_().trace(model))
    assert calls(inside) == [] and calls(inside, "call_function")


class Doubled(fd.Dropout):
    def forward(self, input):
        return super().forward(input * 2)


def test_a_subclass_from_elsewhere_is_looked_into():
    """As one of torch's layers: what it adds is for the tracer to see."""
    traced = torch.fx.symbolic_trace(Around(Doubled(0.5)))
    assert calls(traced) == [] and FF.dropout in calls(traced, "call_function")


def test_the_class_tells_where_it_is_from():
    for name, entry in MODULES.items():
        cls = type(entry.make())
        assert name == "WeightDrop" or cls.__module__.startswith("fused_dropout."), name


def test_a_module_from_an_older_pickle():
    """Its state knows nothing of tracing."""
    layer = fd.Dropout(0.5)
    make, arguments, state = layer.__reduce_ex__(2)[:3]
    again = make(*arguments)
    again.__setstate__({k: v for k, v in state.items() if not k.startswith("__")})
    assert calls(torch.fx.symbolic_trace(Around(again))) == ["layer"]
