"""Modules that call dropout functions: fused, they store no mask, whatever else their code does."""

import copy
import inspect
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import dropout as drop_directly

import fused_dropout as fd
from tests.fusion import functional_helpers
from tests.fusion.fusing import called, classes, fused_copy, seeded
from tests.fusion.parity import ExplicitMasks

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(2))
HEADS = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(3))


class Functional(nn.Module):
    """Base of the modules below: a probability and the forward that they define."""

    def __init__(self, p=0.4):
        super().__init__()
        self.p = p
        self.fc = nn.Linear(8, 8)


class Dropout(Functional):
    def forward(self, x):
        return F.dropout(self.fc(x), self.p, self.training)


class LongName(Functional):
    def forward(self, x):
        return torch.nn.functional.dropout(nn.functional.relu(x), p=self.p, training=self.training)


class Direct(Functional):
    """The name of the function is also that of an attribute."""

    def __init__(self, p=0.4):
        super().__init__(p)
        self.drop_directly = p

    def forward(self, x):
        return drop_directly(x, self.drop_directly, self.training)


class Inplace(Functional):
    def forward(self, x):
        return F.dropout(self.fc(x), self.p, self.training, inplace=True)


class TorchDropout(Functional):
    def forward(self, x):
        return torch.dropout(x, self.p, self.training)


class TorchInplace(Functional):
    def forward(self, x):
        return torch.dropout_(self.fc(x), self.p, self.training)


class Alpha(Functional):
    def forward(self, x):
        return F.alpha_dropout(x, self.p, self.training)


class TorchAlpha(Functional):
    def forward(self, x):
        return torch.alpha_dropout(x, self.p, self.training)


class FeatureAlpha(Functional):
    def forward(self, x):
        return F.feature_alpha_dropout(x, self.p, self.training)


class Feature(Functional):
    def forward(self, x):
        return torch.feature_dropout(x, self.p, self.training)


class Channels1d(Functional):
    def forward(self, x):
        return F.dropout1d(x.flatten(2), self.p, self.training)


class Channels2d(Functional):
    def forward(self, x):
        return F.dropout2d(x, self.p, self.training)


class Channels3d(Functional):
    def forward(self, x):
        return F.dropout3d(x.unsqueeze(-1), self.p, self.training)


class Attention(Functional):
    def forward(self, x):
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, dropout_p=p)


class CausalAttention(Functional):
    def forward(self, x):
        p = self.p if self.training else 0.0
        return F.scaled_dot_product_attention(x, x, x, None, p, True, scale=0.5)


class Inherited(Dropout):
    """The code of the base class drops too; ``super`` finds it."""

    def forward(self, x):
        return F.dropout(super().forward(x), self.p, self.training)


class InheritedOnly(Dropout):
    pass


class Method(Functional):
    def forward(self, x):
        return self.shrink(self.halve(x, self.p), self)

    @staticmethod
    def halve(x, p):
        return F.dropout(x, p)

    @classmethod
    def shrink(cls, x, module):
        return F.dropout(x, module.p, module.training)


class Helper(Functional):
    """The function that drops is in another file, and calls itself and others."""

    def forward(self, x):
        return functional_helpers.drop_twice(x, self.p, self.training)


class Inner(Functional):
    def forward(self, x):
        def inner(x):
            return (lambda y: F.dropout(y, self.p, self.training))(x)

        return inner(x) + sum(F.dropout(one, self.p, self.training) for one in (x, x))


class Decorated(Functional):
    @torch.enable_grad()
    @functional_helpers.named("layer")
    def forward(self, x):
        """Docstring."""
        return F.dropout(x, self.p, self.training)


def made_in_a_function():
    local_functional, helper = F, functional_helpers

    class InClosure(Functional):
        def forward(self, x):
            x = helper.drop_twice(x, self.p, self.training)
            return local_functional.dropout(x, self.p, self.training)

    return InClosure


InClosure = made_in_a_function()

# {class: (input, number of kernel calls in a forward pass)}
CASES = {
    Dropout: (X, 1),
    LongName: (X, 1),
    Direct: (X, 1),
    Inplace: (X, 1),
    TorchDropout: (X, 1),
    TorchInplace: (X, 1),
    Alpha: (X, 1),
    TorchAlpha: (X, 1),
    FeatureAlpha: (IMAGES, 1),
    Feature: (IMAGES, 1),
    Channels1d: (IMAGES, 1),
    Channels2d: (IMAGES, 1),
    Channels3d: (IMAGES, 1),
    Attention: (HEADS, 1),
    CausalAttention: (HEADS, 1),
    Inherited: (X, 2),
    InheritedOnly: (X, 1),
    Method: (X, 2),
    Helper: (X, 2),
    Inner: (X, 3),
    Decorated: (X, 1),
    InClosure: (X, 3),
}
CASE = pytest.mark.parametrize("cls", CASES, ids=lambda cls: cls.__name__)


def kinds(model, *inputs):
    return [site.kind for site in fd.report(model, *inputs).dropout_sites]


@CASE
def test_no_mask_is_stored(cls):
    x, count = CASES[cls]
    model = cls()
    assert kinds(model, x) == ["torch"] * count
    report = fd.fuse(model, ["functional"])
    assert [site.group for site in report.fused] == ["functional"] and not report.skipped
    assert kinds(model, x) == ["alone"] * count
    assert set(kinds(model)) == {"alone"}
    fd.unfuse(model)
    assert type(model) is cls and kinds(model, x) == ["torch"] * count


@CASE
def test_evaluation_and_zero_p_are_those_of_the_unfused_model(cls):
    x, _ = CASES[cls]
    if cls is not Method:  # one of its calls drops in evaluation too
        model = cls().eval()
        assert torch.equal(fused_copy(model)(x), model(x))
    model = cls(0.0)
    assert torch.equal(fused_copy(model)(x), model(x))


@CASE
def test_statistics(cls):
    """The share of zeros, or of the saturated value, and the mean are those of torch."""
    x, _ = CASES[cls]
    model, fused = cls(0.4), fused_copy(cls(0.4))
    fused.load_state_dict(model.state_dict())
    ones = torch.ones_like(x).repeat(60, *(1,) * (x.dim() - 1))
    torch.manual_seed(1)
    a, b = model(ones), fused(ones)
    assert a.shape == b.shape and a.dtype == b.dtype
    values, others = a.unique(), b.unique()
    if len(values) < 5:  # few values: those of torch, with the same frequencies
        torch.testing.assert_close(others, values, rtol=1e-4, atol=1e-5)
    assert abs(a.mean().item() - b.mean().item()) < 0.15 * a.std().item()


@pytest.mark.parametrize("cls", [Dropout, Channels2d, Inherited, Helper, InClosure])
def test_masks_are_those_of_the_contract(cls):
    x, _ = CASES[cls]
    model = cls()
    fused = fused_copy(model)
    got = seeded(fused, x)
    with ExplicitMasks():
        wanted = seeded(model, x)
    torch.testing.assert_close(got, wanted)


@CASE
def test_compiled_in_one_graph(cls):
    x, _ = CASES[cls]
    fused = fused_copy(cls())
    targets = []

    def backend(graph, inputs):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(fused, backend=backend, fullgraph=True)
    compiled(x)
    assert any(target.startswith("fused_dropout.") for target in targets)
    assert seeded(compiled, x).shape == fused(x).shape


@CASE
def test_copies_and_pickles(cls):
    x, _ = CASES[cls]
    fused = fused_copy(cls())
    for other in (copy.deepcopy(fused), copy.copy(fused)):
        assert type(other) is type(fused)
        assert torch.equal(seeded(other, x), seeded(fused, x))
    if cls is not InClosure:  # a class that is defined in a function cannot be pickled
        other = pickle.loads(pickle.dumps(fused))
        assert type(other) is type(fused) and isinstance(other, cls)
        assert torch.equal(seeded(other, x), seeded(fused, x))


@CASE
def test_signature_and_docstring(cls):
    fused = fused_copy(cls())
    assert inspect.signature(fused.forward) == inspect.signature(cls().forward)
    assert fused.forward.__doc__ == cls.forward.__doc__
    assert type(fused).__name__ == cls.__name__ and type(fused).__module__ == cls.__module__


def test_other_names_keep_their_values():
    before = dict(vars(functional_helpers)), dict(globals()), dict(vars(F))
    fused = fused_copy(Helper())
    fused(X)
    for old, now in zip(before, (vars(functional_helpers), globals(), vars(F)), strict=True):
        assert all(now[name] is value for name, value in old.items())
        assert all(name.startswith("_fused_dropout_") for name in now.keys() - old.keys())
    assert called(lambda: Helper()(X)) == set()


def test_globals_stay_live(monkeypatch):
    fused = fused_copy(Helper())
    monkeypatch.setattr(functional_helpers, "SCALE", 3.0)
    fused.p = 0.0
    torch.testing.assert_close(fused(X), 3 * X)


def test_methods_that_are_replaced_after_fuse(monkeypatch):
    fused = fused_copy(Dropout(), ["functional"])
    method = fused_copy(Method(), ["functional"])
    monkeypatch.setattr(Dropout, "forward", lambda self, x: x + 1)
    assert torch.equal(fused(X), X + 1)
    monkeypatch.setattr(Method, "halve", staticmethod(lambda x, p: x / 2))
    method.p = 0.0
    assert torch.equal(method(X), X / 2)
    monkeypatch.undo()
    method.p = 0.5
    assert kinds(fused, X) == ["alone"] and kinds(method, X) == ["alone", "alone"]


def test_hooks_run():
    fused, seen = fused_copy(Dropout()), []
    fused.register_forward_hook(lambda module, args, output: seen.append("forward"))
    fused.fc.register_forward_pre_hook(lambda module, args: seen.append("pre"))
    fused.register_full_backward_hook(lambda module, grads, outputs: seen.append("backward"))
    assert kinds(fused, X) == ["alone"]
    fused(X).sum().backward()
    assert seen == ["pre", "forward", "pre", "forward", "backward"]


def test_forward_set_on_the_instance():
    model = Dropout()
    model.forward = lambda x: F.dropout(x, 0.5)
    (site,) = fd.fuse(model).sites
    assert not site.fused and site.text == "has a forward set on the instance"


def test_groups():
    model = nn.Sequential(Dropout(), nn.Dropout(0.1))
    old = classes(model)
    fd.fuse(model, ["dropout"])
    assert [a is b for a, b in zip(old, classes(model), strict=True)] == [True, True, True, False]
    fd.fuse(model, ["functional"])
    assert [a is b for a, b in zip(old, classes(model), strict=True)] == [True, False, True, False]


def test_layers_whose_class_is_derived_from_a_dropout_layer():
    class Scheduled(nn.Dropout):
        def forward(self, x):
            return F.dropout(x, self.p / 2, self.training)

    model = nn.Sequential(nn.Linear(8, 8), Scheduled(0.5))
    fd.fuse(model)
    assert kinds(model, X) == ["alone"]


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(need_weights):
    model = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
    x = HEADS[0]
    assert kinds(model, x, x, x) == ["torch"]
    fused = fused_copy(model)

    def run(model):
        return seeded(model, x, x, x, need_weights=need_weights)[0]

    with ExplicitMasks():
        wanted = run(model)
    torch.testing.assert_close(run(fused), wanted)
    assert kinds(fused, x, x, x) == ["alone"]
    model.eval()
    fused.eval()
    assert torch.equal(run(fused), run(model))


def test_multihead_attention_forward_of_ones_own():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2)

        def forward(self, x):
            inner = self.inner
            return F.multi_head_attention_forward(
                x, x, x, 8, 2, inner.in_proj_weight, inner.in_proj_bias, None, None, False, 0.3,
                inner.out_proj.weight, inner.out_proj.bias, training=self.training,
            )[0]  # fmt: skip

    model = Own()
    assert kinds(model, HEADS[0]) == ["torch"]
    fd.fuse(model)
    assert kinds(model, HEADS[0]) == ["alone"]
    with torch.device("cpu"):  # a function mode, for which torch calls the function again
        assert called(lambda: model(HEADS[0]))


def test_recurrent_layers_have_a_reason():
    model = nn.ModuleList([nn.LSTM(8, 8, 2, dropout=0.3), nn.GRU(8, 8, 1), nn.LSTM(8, 8, 2)])
    (site,) = fd.fuse(model).dropout_sites
    assert (site.name, site.kind) == ("0", "torch")
    assert "in one call" in site.reason and site.function == "LSTM"
    assert kinds(model[0], X) == ["torch"] and kinds(model[1], X) == []


def test_tensors_without_kernels_go_to_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([X, X[:2]])
    model = TorchDropout()
    assert kinds(fused_copy(model), nested) == ["torch"]
    assert seeded(fused_copy(model), nested).is_nested


MANY = """
class {name}(nn.Module):
    torch = 1

    def forward(self, x):
        x = torch.nn.functional.dropout(x, 0.5, self.training)
        if not self.training:
            {attributes}
        return x * self.{attribute}
"""


@pytest.mark.parametrize("count", [100, 400])
@pytest.mark.parametrize("attribute", ["training", "torch"])
def test_code_with_many_names(count, attribute):
    """Code whose names cannot be numbered anew stays: an attribute has the name of the module."""
    attributes = "; ".join(f"self.attribute_{index}" for index in range(count))
    names = {"torch": torch, "nn": nn, "__name__": __name__}
    text = MANY.format(name="Many", attributes=attributes, attribute=attribute)
    exec(compile(text, __file__, "exec"), names)
    model = names["Many"]()
    fd.fuse(model)
    stays = count == 400 and attribute == "torch"
    assert kinds(model, X) == ["torch" if stays else "alone"]
    assert torch.equal(seeded(model, X) != 0, seeded(model, X) != 0)
    if stays:
        (site,) = fd.report(model).dropout_sites
        assert (site.kind, site.reason) == ("torch", "the code cannot be redirected")
