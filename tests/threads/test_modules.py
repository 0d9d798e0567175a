"""Several threads call one module: right results, different masks, an unchanged module."""

import itertools
import time
import warnings
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.fusion import registry
from tests.noise.calls import DRAWING
from tests.thread_helpers import in_threads

THREADS, CALLS = 4, 10


class Net(nn.Module):
    """Its weights are dropped inside, past two children and by way of an attribute."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 6)
        self.body = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False))
        self.head = self.body[0].forward

    def forward(self, x):
        return self.head(self.body(self.rnn(x)[0]))


def weight_drop(module, *names):
    return lambda: fd.WeightDrop(module(), names, 0.3)


def hooked(norm):
    def make():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(nn.Linear(6, 7))

    return make


def fused():
    model = nn.Sequential(nn.Linear(6, 7), nn.GELU(), nn.Dropout(0.3), nn.Linear(7, 6))
    fd.fuse(model)
    return model


# Made, and given inputs of what shapes. One state is drawn at each call.
MODULES = {
    "MLP": (lambda: fd.MLP(6, 8, 3), [(4, 6)]),
    "GatedMLP": (lambda: fd.GatedMLP(6, 8, 3), [(4, 6)]),
    "Dropout": (fd.Dropout, [(4, 16)]),
    "Dropout1d": (fd.Dropout1d, [(4, 16, 2)]),
    "Dropout2d": (fd.Dropout2d, [(4, 16, 2, 2)]),
    "Dropout3d": (fd.Dropout3d, [(4, 16, 2, 2, 2)]),
    "AlphaDropout": (fd.AlphaDropout, [(4, 16)]),
    "FeatureAlphaDropout": (fd.FeatureAlphaDropout, [(4, 16, 2)]),
    "BiasActDropout": (lambda: fd.BiasActDropout(16), [(4, 16)]),
    "BiasDropoutAdd": (lambda: fd.BiasDropoutAdd(16), [(4, 16)] * 2),
    "BiasGLUDropout": (lambda: fd.BiasGLUDropout(16), [(4, 32)]),
    "LinearActDropout": (lambda: fd.LinearActDropout(6, 16), [(4, 6)]),
    "LinearGLUDropout": (lambda: fd.LinearGLUDropout(6, 16), [(4, 6)]),
    "DropoutAddLayerNorm": (lambda: fd.DropoutAddLayerNorm(16, branch_bias=True), [(4, 16)] * 2),
    "DropoutAddRMSNorm": (lambda: fd.DropoutAddRMSNorm(16), [(4, 16)] * 2),
    "LockedDropout": (fd.LockedDropout, [(3, 4, 16)]),
    "DropPath": (lambda: fd.DropPath(0.5), [(64, 2)]),
    "DropBlock1d": (lambda: fd.DropBlock1d(0.5, 3), [(2, 4, 20)]),
    "DropBlock2d": (lambda: fd.DropBlock2d(0.5, 3), [(2, 4, 9, 9)]),
    "DropBlock3d": (lambda: fd.DropBlock3d(0.5, 3), [(2, 4, 5, 5, 5)]),
    "DropConnectLinear": (lambda: fd.DropConnectLinear(6, 7, activation="gelu"), [(4, 6)]),
    "EmbeddingDropout": (lambda: fd.EmbeddingDropout(64, 3, 0.5), [torch.arange(64)]),
    **{call.module.__name__: (call.make_module, [(4, 16)]) for call in DRAWING.values()},
    "ConcreteDropout of a layer": (
        lambda: fd.ConcreteDropout(0.4, layer=nn.Linear(6, 7)),
        [(4, 6)],
    ),
    "WeightDrop": (weight_drop(lambda: nn.Linear(6, 7), "weight"), [(4, 6)]),
    "WeightDrop of a convolution": (weight_drop(lambda: nn.Conv1d(2, 7, 3), "weight"), [(4, 2, 6)]),
    "WeightDrop of an LSTM": (weight_drop(lambda: nn.LSTM(6, 7), "weight_hh_l0"), [(3, 4, 6)]),
    "WeightDrop of a GRU": (weight_drop(lambda: nn.GRU(6, 7), "weight_ih_l0"), [(3, 4, 6)]),
    "WeightDrop of an RNN": (weight_drop(lambda: nn.RNN(6, 7), "weight_hh_l0"), [(3, 4, 6)]),
    "WeightDrop of a model, inside": (weight_drop(Net, "body.0.weight"), [(4, 6)]),
    "WeightDrop of a model's GRU": (weight_drop(Net, "rnn.weight_hh_l0"), [(4, 6)]),
    "WeightDrop of a weight normalised by a hook": (
        weight_drop(hooked(nn.utils.weight_norm), "weight"),
        [(4, 6)],
    ),
    "WeightDrop of a pruned weight": (
        weight_drop(hooked(lambda one: prune.l1_unstructured(one, "weight", 0.2)), "weight"),
        [(4, 6)],
    ),
    "WeightDrop of a parametrised weight": (
        weight_drop(lambda: parametrizations.weight_norm(nn.Linear(6, 7)), "weight"),
        [(4, 6)],
    ),
    "a fused model": (fused, [(4, 6)]),
}


def test_every_module_is_here():
    public = {name for name in fd.__all__ if isinstance(getattr(fd, name), type)}
    assert {name for name in public if issubclass(getattr(fd, name), nn.Module)} <= MODULES.keys()


def make(name):
    torch.manual_seed(0)
    module, shapes = MODULES[name]
    module = module()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim():
                parameter.normal_()
    inputs = [one if isinstance(one, torch.Tensor) else torch.randn(one) for one in shapes]
    return module, [x.requires_grad_(x.is_floating_point()) for x in inputs]


def bits(tensor):
    return tensor.detach().contiguous().numpy().tobytes()


def call(module, inputs):
    """Output and gradients, bit by bit."""
    y = module(*inputs)
    y = y[0] if isinstance(y, tuple) else y
    wanted = [one for one in (*inputs, *module.parameters()) if one.requires_grad]
    gradients = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)
    return bits(y), *(None if gradient is None else bits(gradient) for gradient in gradients)


def appearance(module):
    """The objects that it is made of, and their values."""
    parts = []
    for name, one in module.named_modules():
        for place in (one.__dict__, one._parameters, one._buffers, one._modules):
            parts += [(name, key, id(value)) for key, value in place.items()]
    values = [bits(one) for one in (*module.parameters(), *module.buffers())]
    return sorted(parts), values, [one.training for one in module.modules()]


@pytest.mark.parametrize("name", MODULES)
def test_results(name):
    """Those of as many calls by one thread: each of them, once."""
    module, inputs = make(name)
    call(module, inputs)  # what a first call sets up
    torch.manual_seed(1)
    expected = Counter(call(module, inputs) for _ in range(THREADS * CALLS))
    assert len(expected) == THREADS * CALLS, "two masks are equal"
    # Hooks of torch.nn.utils leave the weight of the last call in the module.
    hooked = any(one._forward_pre_hooks for one in module.modules())
    before = None if hooked else appearance(module)
    torch.manual_seed(1)
    results = in_threads(lambda _: [call(module, inputs) for _ in range(CALLS)], THREADS)
    assert Counter(itertools.chain(*results)) == expected
    assert hooked or appearance(module) == before


def test_random_states():
    """Of a generator that threads share, none is drawn twice."""
    generator = torch.Generator().manual_seed(2)
    x = torch.ones(64)

    def work(_):
        states = [tuple(fd.new_rng_state(generator=generator).tolist()) for _ in range(100)]
        masks = [bits(FF.dropout(x, 0.5, generator=generator)) for _ in range(100)]
        return states + masks

    results = list(itertools.chain(*in_threads(work)))
    assert len(set(results)) == len(results)


def test_one_class_for_all():
    """Two threads that fuse or wrap a new class at once do not make two of it."""

    class Fresh(nn.Sequential):
        def __init_subclass__(cls):
            time.sleep(0.02)  # others get so far too

    models = [Fresh(nn.Linear(6, 6), nn.ReLU(), nn.Dropout()) for _ in range(3)]

    def work(i):
        dropping = fd.WeightDrop(models[i], "0.weight")
        fd.fuse(models[i])
        return type(dropping), type(models[i])

    assert len(set(in_threads(work, 3))) == 1


def test_patterns_are_loaded_before_anybody_goes_on(monkeypatch):
    loaded = []

    def load(name):
        time.sleep(0.02)
        loaded.append(name)

    monkeypatch.setattr(registry, "_LIBRARIES", {"torch": "patterns.of.torch"})
    monkeypatch.setattr(registry, "_LOADED", set())
    monkeypatch.setattr(registry.importlib, "import_module", load)

    def work(_):
        fd.fuse(nn.Dropout())
        return list(loaded)

    assert in_threads(work) == [["patterns.of.torch"]] * 4


def test_fused_contexts_that_overlap():
    """A model is fused until the last of them ends, in whatever order they do."""
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout())
    old = type(model)
    first, second = fd.fused(model), fd.fused(model)
    first.__enter__(), second.__enter__()
    first.__exit__(None, None, None)
    assert type(model) is not old
    second.__exit__(None, None, None)
    assert type(model) is old

    def work(_):
        for _ in range(20):
            with fd.fused(model):
                assert type(model) is not old
                model(torch.randn(2, 6))

    in_threads(work)
    assert type(model) is old and type(model[2]) is nn.Dropout


class SlowRamp(fd.LinearRamp):
    """Other threads run between reading and writing its position."""

    @property
    def count(self):
        place = self.place
        time.sleep(1e-4)
        return place

    @count.setter
    def count(self, value):
        self.place = value


def test_ramp():
    module = fd.Dropout()
    ramp = SlowRamp(module, 1000)
    in_threads(lambda _: [ramp.step() for _ in range(50)])
    assert ramp.count == 200 and module.p == 0.5 * (200 / 1000)
