"""Which modules drop in fd.mc_mode, and that it leaves no trace."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

import fused_dropout as fd
from tests.module_helpers import drawing_nothing

CONTAINERS = {"MLP", "GatedMLP"}
# Made, and given what inputs. Each is the model, or has the layer of the name given.
OF_TORCH = {
    "Dropout": (lambda: nn.Dropout(), [(4, 6)], ""),
    "Dropout1d": (lambda: nn.Dropout1d(), [(4, 6, 2)], ""),
    "Dropout2d": (lambda: nn.Dropout2d(), [(4, 6, 2, 2)], ""),
    "Dropout3d": (lambda: nn.Dropout3d(), [(4, 6, 2, 2, 2)], ""),
    "AlphaDropout": (lambda: nn.AlphaDropout(), [(4, 6)], ""),
    "FeatureAlphaDropout": (lambda: nn.FeatureAlphaDropout(), [(4, 6, 2)], ""),
}
OF_THIS_PACKAGE = {
    **{f"fd.{name}": (getattr(fd, name), *rest) for name, (_, *rest) in OF_TORCH.items()},
    "fd.BiasActDropout": (lambda: fd.BiasActDropout(6), [(4, 6)], ""),
    "fd.LinearActDropout": (lambda: fd.LinearActDropout(6, 8), [(4, 6)], ""),
    "fd.BiasDropoutAdd": (lambda: fd.BiasDropoutAdd(6), [(4, 6)] * 2, ""),
    "fd.BiasGLUDropout": (lambda: fd.BiasGLUDropout(6), [(4, 12)], ""),
    "fd.LinearGLUDropout": (lambda: fd.LinearGLUDropout(6, 8), [(4, 6)], ""),
    "fd.DropoutAddLayerNorm": (lambda: fd.DropoutAddLayerNorm(6), [(4, 6)] * 2, ""),
    "fd.DropoutAddRMSNorm": (lambda: fd.DropoutAddRMSNorm(6), [(4, 6)] * 2, ""),
    "fd.MLP": (lambda: fd.MLP(6, 8, 3), [(4, 6)], "fc1"),
    "fd.GatedMLP": (lambda: fd.GatedMLP(6, 8, 3), [(4, 6)], "fc1"),
}
LAYERS = {**OF_TORCH, **OF_THIS_PACKAGE}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case):
    make, shapes, name = LAYERS[case]
    model, inputs = make().eval(), [torch.randn(shape) for shape in shapes]
    with drawing_nothing():
        expected = model(*inputs)
    with fd.mc_mode(model) as layers:
        assert layers == {name: model.get_submodule(name)}
        assert not torch.equal(model(*inputs), model(*inputs))
    assert torch.equal(model(*inputs), expected)


def test_every_module_that_takes_p():
    """A new module that is not declared would be left out of all predictions, silently."""
    classes = {name: getattr(fd, name) for name in fd.__all__ if name[0].isupper()}
    for name, one in classes.items():
        if (
            isinstance(one, type)
            and issubclass(one, nn.Module)
            and name not in CONTAINERS
            and "p" in inspect.signature(one).parameters
        ):
            assert issubclass(one, _DropoutNd) or one.is_dropout is True, name


class Own(nn.Module):
    """As users write it: functional dropout by the module's flag."""

    is_dropout = True

    def forward(self, x):
        return F.dropout(x, 0.5, self.training)


def test_attribute():
    with fd.mc_mode(Own()) as layers:
        assert [type(layer) for layer in layers.values()] == [Own]
    plain = nn.Identity()
    with pytest.raises(ValueError, match="no dropout layer"):
        fd.mc_mode(plain)
    plain.is_dropout = True
    assert list(fd.mc_mode(nn.Sequential(plain)).__enter__()) == ["0"]


# ---------------------------------------------------------------- torch's modules that drop inside


class Encoder(nn.Module):
    """With padding, so that torch's fast path would use nested tensors."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options)

    def forward(self, x):
        padding = torch.zeros(x.shape[:2], dtype=torch.bool)
        padding[0, -1] = True
        return self.encoder(x, src_key_padding_mask=padding)[:, :-1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(8, 8, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.transformer(x, x)


INSIDE = {
    "attention": Attention,
    "encoder": Encoder,
    "encoder, norm first": lambda: Encoder(norm_first=True),
    "decoder": Decoder,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "RNN": lambda: Recurrent(nn.RNN),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("case", INSIDE)
def test_dropout_inside_torchs_modules(case, grad):
    """All of it: without batch normalisation the model drops exactly as in training."""
    model, x = INSIDE[case](), torch.randn(2, 5, 8)
    with torch.set_grad_enabled(grad):
        torch.manual_seed(1)
        expected = model.train()(x)
        torch.manual_seed(1)
        with fd.mc_mode(model.eval()):
            ours = model(x)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.MultiheadAttention(8, 2),
        nn.LSTM(8, 8, num_layers=2),
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)),
    ],
)
def test_nothing_drops(module):
    with pytest.raises(ValueError, match=rf"mc_mode: {type(module).__name__} has no dropout layer"):
        fd.mc_mode(module)


# ---------------------------------------------------------------- what is left untouched


def network():
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), fd.MLP(8, 8, 8), nn.BatchNorm1d(8)
    )


def test_batch_normalisation_stays_in_evaluation():
    model = network().train()
    model(torch.randn(32, 6))
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    x = torch.randn(5, 6) * 10
    with fd.mc_mode(model):
        torch.manual_seed(2)
        ours = model(x)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
    model.eval()
    model[2].train()
    model[3].fc1.train()
    torch.manual_seed(2)
    assert torch.equal(ours, model(x))


def flags(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("pattern", [0b101101001, 0b010010110])
def test_flags_come_back(pattern, enabled):
    model = network()
    for i, module in enumerate(model.modules()):
        module.training = bool(pattern >> i & 1)
    before = flags(model)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        with fd.mc_mode(model):
            assert flags(model) != before
            assert not torch.backends.mha.get_fastpath_enabled()
        assert flags(model) == before
        with pytest.raises(KeyError), fd.mc_mode(model):
            raise KeyError
        assert flags(model) == before
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def test_flags_inside():
    model = network().train()
    with fd.mc_mode(model):
        dropping = {name for name, module in model.named_modules() if module.training}
    assert dropping == {"2", "3.fc1"}


def test_contexts_nest():
    model = network().train()
    with fd.mc_mode(model):
        outer = flags(model)
        with fd.mc_mode(model, only=nn.Dropout):
            assert sum(flags(model)) == 1
        assert flags(model) == outer


class NeverSwitched(nn.Dropout):
    def train(self, mode=True):
        raise AssertionError("train() was called")


def test_overridden_train_is_not_called():
    model = nn.Sequential(NeverSwitched())
    with fd.mc_mode(model):
        assert model[0].training


def test_shared_layer():
    layer = nn.Dropout()
    model = nn.ModuleDict({"a": layer, "b": layer, "c": nn.Dropout()})
    with fd.mc_mode(model, only="b"):
        assert layer.training and not model["c"].training


def test_compiled_model():
    model = torch.compile(network().eval(), backend="eager", fullgraph=True)
    x = torch.randn(4, 6)
    expected = model(x)
    with fd.mc_mode(model):
        assert not torch.equal(model(x), model(x))
    assert torch.equal(model(x), expected)


# ---------------------------------------------------------------- only


def chosen(only):
    model = nn.Sequential()
    model.add_module("first", nn.Dropout())
    model.add_module("block", nn.Sequential(nn.Dropout(0.2), nn.Dropout1d(), nn.Linear(2, 2)))
    model.add_module("blocks", fd.Dropout(0.2))
    with fd.mc_mode(model, only) as layers:
        assert all(layer.training for layer in layers.values())
        assert sum(flags(model)) == len(layers)
    return list(layers)


@pytest.mark.parametrize(
    "only, expected",
    [
        (None, ["first", "block.0", "block.1", "blocks"]),
        ("", ["first", "block.0", "block.1", "blocks"]),
        ("first", ["first"]),
        ("block", ["block.0", "block.1"]),
        (["block.1", "blocks"], ["block.1", "blocks"]),
        (nn.Dropout, ["first", "block.0", "blocks"]),
        (fd.Dropout, ["blocks"]),
        ((fd.Dropout, nn.Dropout1d), ["block.1", "blocks"]),
        ({"first", nn.Dropout1d}, ["first", "block.1"]),
        (lambda layer: layer.p < 0.5, ["block.0", "blocks"]),
    ],
)
def test_only(only, expected):
    assert chosen(only) == expected


@pytest.mark.parametrize(
    "only, error, text",
    [
        (
            "block.2",
            ValueError,
            "only has 'block.2', but the dropout layers are 'first', 'block.0'",
        ),
        (["first", "blo"], ValueError, "only has 'blo'"),
        (nn.Dropout3d, ValueError, r"selects none of the dropout layers 'first' \(Drop"),
        (nn.Linear, ValueError, "selects none"),
        ((), ValueError, "selects none"),
        (lambda layer: False, ValueError, "selects none"),
        (3, TypeError, "only is 3, but expected None, a class, a name"),
        ([nn.Dropout, 3], TypeError, "but expected None, a class, a name"),
        (nn.Dropout(), TypeError, "but expected None, a class, a name"),
    ],
)
def test_only_errors(only, error, text):
    with pytest.raises(error, match=f"mc_mode: .*{text}"):
        chosen(only)


@pytest.mark.parametrize("model", [None, torch.sin, nn.Linear])
def test_not_a_module(model):
    with pytest.raises(
        TypeError, match=r"mc_mode: model is of type .*, but expected a torch.nn.Mod"
    ):
        fd.mc_mode(model)


def test_p_is_zero():
    model = nn.Sequential(nn.Dropout(0.0), fd.MLP(2, 2, 2, p=0.0), nn.Dropout(0.5))
    with pytest.warns(UserWarning, match="mc_mode: all dropout layers that drop have p = 0") as w:
        fd.mc_mode(model, only=["0", "1"])
    assert w[0].filename == __file__
    with fd.mc_mode(model):
        pass
