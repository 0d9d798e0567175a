"""Parameters, classes, copies and saved files of fused models."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.fusion.fusing import Net, classes, encoder_layer, fused_copy, mlp, seeded

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "pickle_2": lambda model: pickle.loads(pickle.dumps(model, protocol=2)),
    "torch.save": saved,
}


def test_parameters_hooks_and_optimisers():
    model = Net()
    seen = []
    model.encoder[0].register_forward_hook(lambda module, *_: seen.append(module))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    children, keys = dict(model.named_modules()), list(model.state_dict())
    fd.fuse(model)
    assert list(model.state_dict()) == keys
    assert all(p is parameters[name] for name, p in model.named_parameters())
    assert all(b is buffers[name] for name, b in model.named_buffers())
    assert all(m is children[name] for name, m in model.named_modules())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    model(X).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in parameters.items() if "in_" in name)
    assert seen == [model.encoder[0]]


def test_classes():
    model = fused_copy(Net())
    assert isinstance(model.embed, nn.Sequential)
    assert isinstance(model.drop, nn.Dropout) and isinstance(model.drop, fd.Dropout)
    assert isinstance(model.encoder[0], nn.TransformerEncoderLayer)
    # Wrapping policies look classes up by name.
    for module, name in ((model.embed, "Sequential"), (model.drop, "Dropout")):
        assert type(module).__name__ == type(module).__qualname__ == name
        assert type(module).__module__.startswith("torch.nn.modules.")


def test_repr():
    model = mlp(0.25)
    fd.fuse(model)
    assert repr(model).splitlines() == [
        "FusedSequential(",
        "  (0): Linear(in_features=8, out_features=16, bias=True)",
        "  (1): GELU(approximate='none')",
        "  (2): FusedDropout(p=0.25, inplace=False)",
        "  (3): Linear(in_features=16, out_features=8, bias=True)",
        ")",
    ]
    assert repr(encoder_layer()) == repr(fd.unfuse(fused_copy(encoder_layer())))


@pytest.mark.parametrize("way", COPIES)
def test_copies_are_fused(way):
    model = fused_copy(Net())
    model.encoder[1].note = ["kept"]
    other = COPIES[way](model)
    assert classes(other) == classes(model) and other.encoder[1].note == ["kept"]
    assert not {id(p) for p in other.parameters()} & {id(p) for p in model.parameters()}
    assert torch.equal(seeded(other, X), seeded(model, X))
    fd.unfuse(other)
    assert classes(other) == classes(Net())
    assert classes(model) != classes(Net())


def test_shallow_copy():
    layer = fused_copy(encoder_layer())
    other = copy.copy(layer)
    assert type(other) is type(layer) and other.linear1 is layer.linear1


class Reduced(nn.Sequential):
    """Defines ``__reduce__``."""

    def __reduce__(self):
        return _rebuilt, (type(self), list(self)), {"training": self.training}


def _rebuilt(cls, layers):
    return cls(*layers)


class Extended(nn.Sequential):
    def __new__(cls, *layers, tag="none"):
        self = super().__new__(cls)
        self.__dict__["tag"] = tag
        return self

    def __init__(self, *layers, tag="none"):
        super().__init__(*layers)
        self.tag = tag

    def __getnewargs_ex__(self):
        return (), {"tag": self.tag}


@pytest.mark.parametrize("cls, options", [(Reduced, {}), (Extended, {"tag": "x"})])
@pytest.mark.parametrize("way", COPIES)
def test_classes_that_define_how_they_are_pickled(cls, options, way):
    model = cls(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.5), **options)
    fd.fuse(model)
    other = COPIES[way](model)
    assert classes(other) == classes(model)
    assert torch.equal(seeded(other, X), seeded(model, X))
    assert getattr(other, "tag", None) == options.get("tag")


def test_state_dicts_of_fused_and_unfused_models():
    model, other = fused_copy(Net()), Net()
    model(X).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(X), model.eval()(X))
    fresh = fused_copy(Net())
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(fresh.eval()(X), other(X))


def test_casting_and_moving():
    model = fused_copy(Net()).double()
    assert seeded(model, X.double()).dtype == torch.float64
    model = model.to("meta")
    assert model(X.to("meta", torch.float64)).device.type == "meta"
    assert classes(model) == classes(fused_copy(Net()))


def test_apply_and_train_reach_all_modules():
    model = fused_copy(Net())
    seen = []
    model.apply(seen.append)
    assert len(seen) == len(list(Net().modules()))
    model.eval()
    assert not any(module.training for module in model.modules())
