"""A call of WeightDrop works on a view of the module, and keeps its attributes and hooks."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

import fused_dropout as fd
from fused_dropout import reference
from tests.module_helpers import seed_and_state

P = 0.4


class Stateful(nn.Module):
    """Its forward does to itself all that a forward can do."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = Inner()
        self.layers = [self.first, self.second]
        self.by_name = {"first": self.first}
        self.activation = self.activate
        self.calls = 0
        self.spare = "once"
        self.register_buffer("total", torch.zeros(()))

    def activate(self, x):
        return x * self.first.weight.sum()

    def forward(self, x):
        self.calls += 1
        if "spare" in self.__dict__:
            del self.spare
            self.extra = nn.Parameter(torch.ones(()))
        self.lazily = nn.Identity()
        self.total = self.total + 1
        for layer in self.layers:
            x = layer(x)
        self.hidden = x.detach()
        self.last = self.second
        return self.activation(self.by_name["first"](x)) * self.extra


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen = None

    def forward(self, x):
        self.seen = x.shape
        return self.linear(x)


NAMES = ["first.weight", "second.linear.weight"]


def dropped_twin(module, names, seed):
    """A copy whose weights are those that the next call drops."""
    twin = copy.deepcopy(module)
    torch.manual_seed(seed)
    states = [fd.new_rng_state() for _ in names]
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, state in zip(names, states, strict=True):
            weight = twin.get_parameter(name)
            weight.copy_(reference.dropout(weight, P, state))
    return twin


def test_attributes():
    """A forward finds what the last one has left, in the module, and everything leads to views."""
    module, x = Stateful(), torch.randn(3, 4)
    dropping = fd.WeightDrop(module, NAMES, P)
    parameters = dict(module.named_parameters())
    for i in range(3):
        # A deep copy leads its methods to itself, too.
        twin = dropped_twin(dropping if i else module, NAMES, i)
        twin.__class__ = Stateful
        y = dropping(x)
        torch.testing.assert_close(y, twin(x))
        torch.testing.assert_close(dropping.hidden, twin.hidden)
    assert dropping.calls == 3 and dropping.total == 3 and not hasattr(dropping, "spare")
    assert module.second.seen == x.shape
    assert dropping.last is module.second and type(module.lazily) is nn.Identity
    assert dropping.layers == [module.first, module.second]
    assert dropping.activation.__self__ is dropping and module.activation.__self__ is module
    after = dict(dropping.named_parameters())
    assert all(after[name] is one for name, one in parameters.items())
    assert set(after) == {*parameters, "extra"}
    torch.autograd.grad(y.sum(), list(after.values()))


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer("total", torch.zeros(()))
        self.call = self.linear

    def linear(self, x):
        return super().forward(x)

    def forward(self, x):
        self.total = self.total + 1
        self.hidden = self.call(x)
        return self.hidden * 2


def test_attributes_of_a_compiled_module():
    dropping, x = fd.WeightDrop(Counting(), "weight", P), torch.randn(3, 4)
    torch.manual_seed(1)
    wanted = dropping(x)
    torch._dynamo.reset()
    compiled = torch.compile(dropping, backend="eager", fullgraph=True)
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(x), wanted)
    torch.testing.assert_close(dropping.hidden * 2, wanted)
    assert dropping.total == 2 and dropping.total is dropping._buffers["total"]


def test_attributes_when_forward_fails():
    dropping = fd.WeightDrop(Stateful(), NAMES, P)
    with pytest.raises(RuntimeError):
        dropping(torch.randn(3, 5))
    assert dropping.calls == 1


def test_hooks_inside():
    """Those that look on get the module; one that comes before forward can change its weights."""
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    seen = []
    module[0].register_forward_hook(lambda one, args, y: seen.append(one))
    module[0].register_forward_hook(
        lambda one, args, kwargs, y: seen.append(one), with_kwargs=True, always_call=True
    )
    module[0].register_full_backward_hook(lambda one, *_: seen.append(one))
    module[0].register_full_backward_pre_hook(lambda one, *_: seen.append(one))
    before = []
    module[0].register_forward_pre_hook(lambda one, args: before.append(one.weight))
    dropping = fd.WeightDrop(module, "0.weight", P)
    dropping(torch.randn(2, 4, requires_grad=True)).sum().backward()
    assert len(seen) == 4 and all(one is module[0] for one in seen)
    assert (before[0] == 0).any() and module[0].weight.grad is not None


def test_a_forward_hook_in_a_compiled_module():
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].register_forward_hook(lambda one, args, y: y * one.weight.sum())
    dropping, x = fd.WeightDrop(module, "0.weight", P), torch.randn(2, 4)
    torch.manual_seed(2)
    wanted = dropping(x)
    torch._dynamo.reset()
    torch.manual_seed(2)
    compiled = torch.compile(dropping, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), wanted)


def test_batch_normalisation_inside():
    """Statistics, and the count that forward exchanges, reach the module."""
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    dropping = fd.WeightDrop(module, ["0.weight", "1.weight"], P)
    dropping(torch.randn(8, 4))
    assert module[0].num_batches_tracked == 1 and module[0].running_mean.abs().sum() > 0


def test_a_module_under_two_names():
    layer, x = nn.Linear(4, 4), torch.randn(3, 4)
    dropping = fd.WeightDrop(nn.Sequential(layer, nn.Sequential(layer)), "0.weight", P)
    weight = reference.dropout(layer.weight, P, seed_and_state(3))
    y = nn.functional.linear(nn.functional.linear(x, weight, layer.bias), weight, layer.bias)
    torch.testing.assert_close(dropping(x), y)


def test_lists_of_parameters():
    class Lists(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([torch.randn(4, 4), torch.randn(4, 4)])
            self.named = nn.ParameterDict({"a": torch.randn(4, 4)})

        def forward(self, x):
            for weight in self.weights:
                x = x @ weight
            return x @ self.named["a"]

    module, x = Lists(), torch.randn(3, 4)
    names = ["weights.1", "named.a"]
    twin = dropped_twin(module, names, 4)
    torch.testing.assert_close(fd.WeightDrop(module, names, P)(x), twin(x))


@pytest.mark.parametrize("path", ["", "1"])
def test_a_weight_drop_inside(path):
    """The inner one drops its weights, whatever the outer one drops."""
    inner = fd.WeightDrop(nn.Linear(4, 4), "weight", P)
    module = nn.Sequential(nn.Linear(4, 4), inner)
    name = "1.bias" if path else "0.weight"
    dropping, x = fd.WeightDrop(module, name, P), torch.randn(3, 4)
    twin = dropped_twin(nn.Sequential(module[0], nn.Linear(4, 4)), [], 0)
    twin[1].load_state_dict(inner.state_dict())
    twin = dropped_twin(twin, [name, "1.weight"], 5)
    torch.testing.assert_close(dropping(x), twin(x))


def test_transforms():
    module, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(3, 4)
    dropping = fd.WeightDrop(module, "0.weight", P)
    parameters = dict(module.named_parameters())
    torch.manual_seed(6)
    gradients = torch.autograd.grad(dropping(x).sum(), list(parameters.values()))
    wanted = dict(zip(parameters, gradients, strict=True))
    torch.manual_seed(6)
    ours = torch.func.grad(lambda p: functional_call(dropping, p, (x,)).sum())(parameters)
    torch.testing.assert_close(ours, wanted)
    many = {name: torch.stack([one] * 3) for name, one in parameters.items()}
    results = torch.func.vmap(lambda p: functional_call(dropping, p, (x,)), randomness="different")(
        many
    )
    assert not torch.equal(results[0], results[1])


def test_jit_trace():
    dropping, x = fd.WeightDrop(nn.Sequential(nn.Linear(4, 4)), "0.weight", P), torch.randn(3, 4)
    traced = torch.jit.trace(dropping, x, check_trace=False)
    torch.manual_seed(7)
    y = traced(x)
    torch.manual_seed(7)
    assert torch.equal(dropping(x), y)
    assert {name for name, _ in traced.named_parameters()} == {"0.weight", "0.bias"}
