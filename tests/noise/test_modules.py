"""The modules: construction, evaluation, state dicts, copies, and the regulariser."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import DTYPES
from tests.module_helpers import drawing_nothing, seed_and_state

MODULES = {
    "gaussian": lambda **o: fd.GaussianDropout(0.3),
    "concrete": lambda **o: fd.ConcreteDropout(0.3, **o),
    "concrete_layer": lambda **o: fd.ConcreteDropout(0.3, layer=nn.Linear(6, 6, **o), **o),
    "standout": lambda **o: fd.Standout(0.5, -0.5, "gelu"),
}
every_module = pytest.mark.parametrize("name", MODULES)


@every_module
def test_training_applies_the_contract(name):
    module = MODULES[name]()
    x = torch.randn(4, 6)
    state = seed_and_state(7)
    y = module(x)
    if name == "gaussian":
        expected = reference.gaussian_dropout(x, 0.3, state)
    elif name == "standout":
        expected = reference.standout(nn.functional.gelu(x), x, 0.5, -0.5, state)
    else:
        expected = reference.concrete_dropout(x, module.p_logit, 0.1, state)
        if module.layer is not None:
            expected = module.layer(expected)
    assert torch.allclose(y, expected, rtol=1e-4, atol=1e-5)


@every_module
def test_evaluation(name):
    module = MODULES[name]().eval()
    x = torch.randn(4, 6)
    with drawing_nothing():
        y = module(x)
    if name in ("gaussian", "concrete"):
        assert y is x
    elif name == "concrete_layer":
        assert torch.equal(y, module.layer(x))
    else:
        q = torch.sigmoid(0.5 * x - 0.5)
        assert torch.allclose(y, nn.functional.gelu(x) * q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_module
def test_dtypes(name, dtype):
    module = MODULES[name](dtype=dtype)
    x = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    y = module(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert x.grad.dtype == dtype
    for parameter in module.parameters():
        assert parameter.dtype == dtype and parameter.grad is not None


@every_module
def test_copies(name):
    module = MODULES[name]()
    x = torch.randn(4, 6)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ]
    torch.manual_seed(1)
    expected = module(x)
    for other in copies:
        torch.manual_seed(1)
        assert torch.equal(other(x), expected)
        assert repr(other) == repr(module)
    fresh = MODULES[name]()
    fresh.load_state_dict(module.state_dict())
    torch.manual_seed(1)
    assert torch.equal(fresh(x), expected)


def test_state_dicts():
    assert not fd.GaussianDropout().state_dict() and not fd.Standout().state_dict()
    assert list(fd.ConcreteDropout().state_dict()) == ["p_logit"]
    keys = set(MODULES["concrete_layer"]().state_dict())
    assert keys == {"p_logit", "layer.weight", "layer.bias"}


def test_repr():
    assert repr(fd.GaussianDropout(0.25)) == "GaussianDropout(p=0.25)"
    assert repr(fd.Standout()) == "Standout(alpha=1.0, beta=0.0, activation='relu')"
    assert repr(fd.ConcreteDropout(0.2)) == "ConcreteDropout(p=0.2, temperature=0.1)"
    assert "shared_dims=(2, 3)" in repr(fd.ConcreteDropout(shared_dims=(2, 3)))


@every_module
def test_libraries_find_them(name):
    """The mark that Monte Carlo dropout looks for."""
    assert type(MODULES[name]()).is_dropout is True


@every_module
def test_autocast(name):
    module = MODULES[name]()
    with torch.autocast("cpu", torch.bfloat16):
        y = nn.Sequential(nn.Linear(6, 6), module)(torch.randn(4, 6))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    if name == "concrete":
        assert module.p_logit.grad.dtype == torch.float32


# ---------------------------------------------------------------- Concrete dropout


@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.999])
def test_p_and_its_logit(p):
    module = fd.ConcreteDropout(p, dtype=torch.float64)
    assert module.p_logit.shape == (1,) and module.p.shape == ()
    assert float(module.p.detach()) == pytest.approx(p, rel=1e-12)
    with torch.no_grad():
        module.p_logit.fill_(3.0)
    module.reset_parameters()
    assert float(module.p.detach()) == pytest.approx(p, rel=1e-12)
    with torch.device("meta"):
        assert fd.ConcreteDropout(p).p_logit.is_meta


@pytest.mark.parametrize("layer, features", [
    (nn.Linear(5, 3), 5), (nn.Conv2d(4, 6, 3), 4), (nn.ConvTranspose1d(4, 2, 3), 4),
])  # fmt: skip
def test_regularization(layer, features):
    module = fd.ConcreteDropout(0.2, weight_regularizer=0.01, dropout_regularizer=0.1, layer=layer)
    p = torch.sigmoid(module.p_logit)
    weight = layer.weight
    expected = 0.01 * weight.square().sum() / (1 - p)
    expected = expected + 0.1 * features * (p * p.log() + (1 - p) * (1 - p).log())
    found = module.regularization()
    assert found.shape == ()
    assert torch.allclose(found, expected)
    wanted = torch.autograd.grad(expected, (module.p_logit, weight))
    for one, other in zip(
        torch.autograd.grad(found, (module.p_logit, weight)), wanted, strict=True
    ):
        assert torch.allclose(one, other, rtol=1e-5)
    alone = fd.ConcreteDropout(0.2, weight_regularizer=0.01, dropout_regularizer=0.1)
    assert torch.equal(alone.regularization(layer), found)
    assert torch.equal(alone.regularization(weight, features), found)
    if weight.dim() == 2:
        assert torch.equal(alone.regularization(weight), found)


def test_regularization_is_stable():
    """No NaN where p is as good as 0 or 1."""
    for logit in (-120.0, -30.0, 30.0):
        module = fd.ConcreteDropout(layer=nn.Linear(2, 2))
        with torch.no_grad():
            module.p_logit.fill_(logit)
        value = module.regularization()
        value.backward()
        assert value.isfinite() and module.p_logit.grad.isfinite()


def test_regularization_of_a_model():
    model = nn.Sequential(
        fd.ConcreteDropout(0.2, layer=nn.Linear(4, 8)),
        nn.ReLU(),
        nn.Sequential(fd.ConcreteDropout(0.4, layer=nn.Linear(8, 1))),
    )
    expected = model[0].regularization() + model[2][0].regularization()
    assert torch.equal(fd.concrete_regularization(model), expected)
    assert float(fd.concrete_regularization(nn.Linear(2, 2))) == 0
    assert fd.concrete_regularization(model.double()).dtype == torch.float64


def test_p_is_learned():
    """Noise that only hurts is turned down; a strong entropy term pulls p to one half."""
    torch.manual_seed(0)
    x = torch.randn(256, 8)
    target = x @ torch.randn(8, 1)
    learned = {}
    for regularizer in (0.0, 50.0):
        model = fd.ConcreteDropout(
            0.2, layer=nn.Linear(8, 1), dropout_regularizer=regularizer, weight_regularizer=0.0
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), target) + fd.concrete_regularization(model)
            loss.backward()
            optimizer.step()
        learned[regularizer] = float(model.p.detach())
    assert learned[0.0] < 0.05
    assert abs(learned[50.0] - 0.5) < 0.05


def test_expected_loss_has_the_gradient_by_the_logit():
    """The mean of many gradients is the slope of the mean of many losses."""
    x = torch.ones(400_000, dtype=torch.float64)
    state = torch.tensor([3, 0])

    def loss(logit):
        return FF.concrete_dropout(x, logit, 0.5, rng_state=state).square().mean()

    logit = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    loss(logit).backward()
    with torch.no_grad():
        slope = (loss(logit + 1e-5) - loss(logit - 1e-5)) / 2e-5
    assert float(logit.grad) == pytest.approx(float(slope), rel=1e-6)


def test_spatial():
    module = fd.ConcreteDropout(0.5, shared_dims=(2, 3))
    y = module(torch.ones(2, 3, 4, 5)).detach()
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))


# ---------------------------------------------------------------- Standout


def test_standout_drops_small_units_more():
    module = fd.Standout(alpha=2.0, activation="identity")
    z = torch.tensor([-2.0, 0.0, 2.0]).expand(20_000, 3)
    kept = (module(z + 1e-3) != 0).double().mean(0)
    for found, unit in zip(kept, (-2.0, 0.0, 2.0), strict=True):
        q = 1 / (1 + math.exp(-2 * unit))
        assert float(found) == pytest.approx(q, abs=0.02)


def test_standout_trains_behind_its_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), fd.Standout(beta=1.0), nn.Linear(32, 1))
    x = torch.randn(64, 6)
    y = x[:, :1] * 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
