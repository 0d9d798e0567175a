"""WeightDrop where a hook or a parametrisation computes the weight that forward uses."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fused_dropout as fd
from fused_dropout import reference
from tests.module_helpers import seed_and_state

P = 0.4
SCALE = reference.scale(P)


def quietly(norm):
    def call(module, *args):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(module, *args)

    return call


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def halved(module, name):
    parametrize.register_parametrization(module, name, Halved())
    return module


def pruned_twice(module, name):
    prune.random_unstructured(module, name, 0.2)
    return prune.l1_unstructured(module, name, 0.2)


# How torch.nn.utils computes a weight, and the parameters that it computes it from.
WAYS = {
    "weight_norm": (quietly(nn.utils.weight_norm), ("weight_g", "weight_v")),
    "spectral_norm": (nn.utils.spectral_norm, ("weight_orig",)),
    "prune": (lambda *one: prune.random_unstructured(*one, 0.2), ("weight_orig",)),
    "pruned twice": (pruned_twice, ("weight_orig",)),
    "parametrised": (halved, ()),
    "parametrised weight_norm": (parametrizations.weight_norm, ()),
    "parametrised spectral_norm": (parametrizations.spectral_norm, ()),
    "orthogonal": (parametrizations.orthogonal, ()),
}
# A module, the layer inside it that has the weight, an input, and what is computed of the weight.
PLACES = {
    "itself": (lambda way: way(nn.Linear(6, 6), "weight"), "", (5, 6), F.linear),
    "inside": (
        lambda way: nn.Sequential(nn.Identity(), way(nn.Linear(6, 6), "weight")),
        "1",
        (5, 6),
        F.linear,
    ),
    "convolution": (lambda way: way(nn.Conv1d(2, 6, 3), "weight"), "", (5, 2, 6), F.conv1d),
}
every_way = pytest.mark.parametrize("way", WAYS)
every_place = pytest.mark.parametrize("place", PLACES)


def make(way, place):
    torch.manual_seed(0)
    build, path, shape, function = PLACES[place]
    module = build(WAYS[way][0])
    x = torch.randn(shape)
    for _ in range(100):  # the vectors of spectral_norm converge
        module(x)
    name = f"{path}.weight".removeprefix(".")
    return module, module.get_submodule(path), name, x, function


@every_way
@every_place
def test_the_weight_that_was_computed_is_dropped(way, place):
    module, layer, name, x, function = make(way, place)
    module(x)
    weight = layer.weight.detach()
    dropping = fd.WeightDrop(module, name, P)
    wanted = function(x, reference.dropout(weight, P, seed_and_state(1)), layer.bias)
    y = dropping(x)
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(dropping(x), y)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-4, atol=1e-5)
    module.eval(), dropping.eval()
    assert torch.equal(dropping(x), module(x))


@every_way
def test_computed_after_the_wrapping(way):
    """Whichever of the two is changed, nothing is done to the weight without a word."""
    change, _ = WAYS[way]
    module = nn.Linear(6, 6)
    dropping, x = fd.WeightDrop(module, "weight", P), torch.randn(5, 6)
    change(dropping, "weight")
    for _ in range(100):
        dropping(x)
    weight = dropping.weight.detach()
    wanted = F.linear(x, reference.dropout(weight, P, seed_and_state(2)), module.bias)
    torch.testing.assert_close(dropping(x), wanted, rtol=1e-4, atol=1e-5)
    other = nn.Linear(6, 6)
    dropping = fd.WeightDrop(other, "weight", P)
    change(other, "weight")
    if "parametrizations" in other._modules:
        with pytest.raises(RuntimeError, match="Linear has no parameter 'weight' any more"):
            dropping(x)
    else:
        assert not torch.equal(dropping(x), dropping(x))


@pytest.mark.parametrize("way", ["prune", "parametrised"])
def test_compiled(way):
    module, _, name, x, _ = make(way, "itself")
    dropping = fd.WeightDrop(module, name, P)
    torch.manual_seed(3)
    wanted = dropping(x)
    torch._dynamo.reset()
    compiled = torch.compile(dropping, backend="eager", fullgraph=True)
    torch.manual_seed(3)
    torch.testing.assert_close(compiled(x), wanted)


@pytest.mark.parametrize("way", [name for name, (_, sources) in WAYS.items() if sources])
@every_place
def test_what_a_hook_computes_from_is_refused(way, place):
    module, _, name, _, _ = make(way, place)
    for source in WAYS[way][1]:
        given = name.replace("weight", source)
        with pytest.raises(ValueError, match=f"weights has '{given}', from which .* '{name}'"):
            fd.WeightDrop(module, given)
    with pytest.raises(ValueError, match=f"no parameter 'x'; it has .*{name}"):
        fd.WeightDrop(module, "x")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("path", ["", "0"])
@pytest.mark.parametrize(
    "way", ["weight_norm", "prune", "parametrised", "parametrised weight_norm"]
)
def test_recurrent(kind, path, way):
    torch.manual_seed(0)
    layer, x = kind(6, 5), torch.randn(3, 2, 6)
    WAYS[way][0](layer, "weight_hh_l0")
    layer(x)
    weight, plain = layer.weight_hh_l0.detach(), kind(6, 5)
    with torch.no_grad():
        for name in plain._flat_weights_names:
            plain.get_parameter(name).copy_(getattr(layer, name))
        plain.weight_hh_l0.copy_(reference.dropout(weight, P, seed_and_state(4)))
    module = nn.Sequential(layer) if path else layer
    dropping = fd.WeightDrop(module, f"{path}.weight_hh_l0".removeprefix("."), P)
    y = dropping(x)[0]
    torch.testing.assert_close(y, plain(x)[0])
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_the_original_of_a_parametrisation():
    layer, x = halved(nn.Linear(6, 6), "weight"), torch.randn(5, 6)
    name = "parametrizations.weight.original"
    dropping = fd.WeightDrop(layer, name, P)
    original = layer.parametrizations.weight.original
    dropped = reference.dropout(original, P, seed_and_state(5))
    torch.testing.assert_close(dropping(x), F.linear(x, dropped / 2, layer.bias))
    with pytest.raises(ValueError, match=f"weights has both 'weight' and '{name}'"):
        fd.WeightDrop(layer, ["weight", name])
    with pytest.raises(ValueError, match=f"weights has both '0.weight' and '0.{name}'"):
        fd.WeightDrop(nn.Sequential(layer), ["0.weight", f"0.{name}"])


@pytest.mark.parametrize("name", ["weight", "parametrizations.weight.original"])
def test_cached_parametrisations(name):
    """A mask is fresh within torch.nn.utils.parametrize.cached, and no dropped weight is kept."""
    layer, x = halved(nn.Linear(6, 6), "weight"), torch.randn(5, 6)
    dropping = fd.WeightDrop(nn.Sequential(layer), f"0.{name}", P)
    wanted = layer(x)
    with parametrize.cached():
        results = [dropping(x) for _ in range(8)]
        assert torch.equal(layer(x), wanted) and torch.equal(dropping.eval()(x), wanted)
    assert len({tuple(y.flatten().tolist()) for y in results}) == 8


# ---------------------------------------------------------------- what forward does not read


class Hidden(nn.Module):
    """Its forward reaches the layer in a way that WeightDrop cannot see."""

    def __init__(self):
        super().__init__()
        self.layer = layer = nn.Linear(6, 6)
        self.call = lambda x: layer(x)

    def forward(self, x):
        return self.call(x)


def test_a_weight_that_is_not_read():
    dropping = fd.WeightDrop(Hidden(), ["layer.weight", "layer.bias"], P)
    with pytest.warns(UserWarning, match="forward of Hidden did not read 'layer.weight', 'layer.b"):
        dropping(torch.ones(2, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dropping(torch.ones(2, 6))


def equalised(module):
    """As some do it by hand: a hook that computes an attribute from a parameter."""
    weight = module.weight
    del module._parameters["weight"]
    module.weight_orig = weight
    module.register_forward_pre_hook(lambda one, _: setattr(one, "weight", 3 * one.weight_orig))
    module.weight = weight.detach()
    return module


def test_hooks_of_other_packages():
    x = torch.randn(5, 6)
    dropping = fd.WeightDrop(equalised(nn.Linear(6, 6)), "weight_orig", P)
    with pytest.warns(UserWarning, match="forward of Linear did not read 'weight_orig'"):
        dropping(x)
    inside = equalised(nn.Linear(6, 6))
    dropping = fd.WeightDrop(nn.Sequential(inside), "0.weight_orig", P)
    dropped = reference.dropout(inside.weight_orig, P, seed_and_state(6))
    torch.testing.assert_close(dropping(x), F.linear(x, 3 * dropped, inside.bias))


def test_lazy_modules():
    for module in (nn.LazyLinear(6), nn.Sequential(nn.LazyLinear(6))):
        name = "weight" if isinstance(module, nn.Linear) else "0.weight"
        with pytest.raises(ValueError, match=f"'{name}' has no shape yet; call the .* once before"):
            fd.WeightDrop(module, name)
        module(torch.ones(2, 5))
        dropping = fd.WeightDrop(module, name, P)
        assert not torch.equal(dropping(torch.ones(2, 5)), dropping(torch.ones(2, 5)))


def test_a_forward_that_was_replaced():
    scripted = nn.Sequential(torch.jit.script(nn.Linear(6, 6)))
    with pytest.raises(TypeError, match="'0' is a TorchScript module"):
        fd.WeightDrop(scripted, "0.weight")
    module = nn.Sequential(nn.Linear(6, 6))
    module[0].forward = functools.partial(nn.Linear.forward, module[0])
    with pytest.raises(TypeError, match="the forward of '0', a Linear, has been replaced"):
        fd.WeightDrop(module, "0.weight")
    del module[0].forward
    dropping = fd.WeightDrop(module, "0.weight")
    module[0].forward = functools.partial(nn.Linear.forward, module[0])
    with pytest.raises(TypeError, match="the forward of a submodule has been replaced"):
        dropping(torch.ones(2, 6))
    compiled = nn.Sequential(torch.compile(nn.Linear(6, 6), backend="eager"))
    name = next(name for name, _ in compiled.named_parameters())
    with pytest.raises(TypeError, match="the forward of '0', a OptimizedModule, has been replaced"):
        fd.WeightDrop(compiled, name)


@pytest.mark.parametrize("fuse_first", [True, False])
def test_fused_models(fuse_first):
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Dropout(0.2), nn.Linear(6, 2))
    plain = copy.deepcopy(model)
    if fuse_first:
        fd.fuse(model)
    dropping = fd.WeightDrop(model, "0.weight", 1.0)
    if not fuse_first:
        fd.fuse(dropping)
    x = torch.randn(5, 6)
    with torch.no_grad():
        plain[0].weight.zero_()
    plain[2].p = model[2].p = 0.0
    torch.testing.assert_close(dropping(x), plain(x))


def test_compiled_in_place():
    """What was compiled is the call of the wrapped module, or that of the layer inside."""
    module = nn.Linear(6, 6)
    module.compile(backend="eager")
    dropping, x = fd.WeightDrop(module, "weight", P), torch.ones(2, 6)
    assert not torch.equal(dropping(x), dropping(x))
    inside = fd.WeightDrop(nn.Sequential(module), "0.weight", P)
    assert not torch.equal(inside(x), inside(x)) and torch.equal(module(x), module(x))
