"""Concrete dropout: finite results, wrong arguments, the module and its regulariser."""

import pytest
import torch
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing
from tests.noise.noise_call import STATE

X = torch.randn(4, 6)
LOGITS = [-1e38, -1e4, -800.0, -90.0, -20.0, 0.0, 20.0, 87.9, 88.1, 90.0, 800.0, 1e4, 1e38]
every_temperature = pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 10.0])


def run(x, logit, temperature):
    return FF.concrete_dropout(x, logit, temperature, rng_state=STATE)


@every_temperature
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_and_gradients(dtype, temperature, capability):
    for logit in LOGITS:
        check_results_and_gradients(dtype, logit, temperature)


def check_results_and_gradients(dtype, logit, temperature):
    x = torch.ones(300, dtype=dtype, requires_grad=True)
    logit = torch.tensor(logit, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    logit.requires_grad_()
    y = run(x, logit, temperature)
    y.sum().backward()
    assert y.isfinite().all(), logit
    assert x.grad.isfinite().all()
    assert logit.grad.isfinite()
    if logit < -100:  # nothing is dropped
        assert (y == 1).all()
    if logit > 100 and temperature <= 1:  # everything is
        assert (y == 0).all()


@every_temperature
def test_the_composition(temperature):
    """The composition serves transforms and higher derivatives."""
    for logit in LOGITS:
        check_the_composition(logit, temperature)


def check_the_composition(logit, temperature):
    x = torch.ones(300, requires_grad=True)
    logit = torch.tensor(logit, requires_grad=True)
    dx, dlogit = torch.func.grad(lambda x, by: run(x, by, temperature).sum(), (0, 1))(x, logit)
    assert dx.isfinite().all() and dlogit.isfinite()
    first = torch.autograd.grad(run(x, logit, temperature).sum(), x, create_graph=True)[0]
    (second,) = torch.autograd.grad(first.sum(), logit)
    assert second.isfinite()


# ---------------------------------------------------------------- errors


def test_logits():
    for logit, error, text in [
        (torch.zeros(2), RuntimeError, r"logit has shape \[2\], but expected one element"),
        (torch.tensor(0), RuntimeError, "logit has dtype"),
        (torch.zeros((), device="meta"), RuntimeError, "logit is on meta, but x is on cpu"),
        (0.0, TypeError, "logit is 0.0, but expected a tensor"),
    ]:
        with drawing_nothing(), pytest.raises(error, match=f"concrete_dropout: {text}"):
            FF.concrete_dropout(X, logit)
    assert FF.concrete_dropout(X, torch.zeros(1, 1)).shape == X.shape


@pytest.mark.parametrize("temperature", [0, -1.0, float("inf"), float("nan")])
def test_temperatures(temperature):
    with drawing_nothing(), pytest.raises(ValueError, match="concrete_dropout: temperature is"):
        FF.concrete_dropout(X, torch.tensor(0.0), temperature)
    with pytest.raises(ValueError, match="ConcreteDropout: temperature is"):
        fd.ConcreteDropout(temperature=temperature)


def test_constructors():
    for p in (0, 1, 0.0, 1.0):
        with pytest.raises(ValueError, match=r"ConcreteDropout: p is .*both excluded"):
            fd.ConcreteDropout(p)
    with pytest.raises(ValueError, match="dropout probability"):
        fd.ConcreteDropout(1.5)
    for argument in ("weight_regularizer", "dropout_regularizer"):
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=f"ConcreteDropout: {argument} is"):
                fd.ConcreteDropout(**{argument: value})
    with pytest.raises(TypeError, match=r"layer is 3, but expected a torch\.nn\.Module"):
        fd.ConcreteDropout(layer=3)


def test_regularization_without_a_weight():
    module = fd.ConcreteDropout()
    with pytest.raises(TypeError, match="weight is None, and this module was given no layer"):
        module.regularization()
    with pytest.raises(TypeError, match="weight is a ReLU, but expected a tensor or a module"):
        module.regularization(nn.ReLU())
    with pytest.raises(ValueError, match=r"weight has shape \(3, 2, 5\).*input_features"):
        module.regularization(torch.ones(3, 2, 5))
    model = nn.Sequential(module, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the ConcreteDropout '0' has no layer"):
        fd.concrete_regularization(model)


# ---------------------------------------------------------------- the module


def test_state_dict_and_repr():
    assert list(fd.ConcreteDropout().state_dict()) == ["p_logit"]
    module = fd.ConcreteDropout(layer=nn.Linear(6, 6))
    assert set(module.state_dict()) == {"p_logit", "layer.weight", "layer.bias"}
    assert repr(fd.ConcreteDropout(0.2)) == "ConcreteDropout(p=0.2, temperature=0.1)"
    assert "shared_dims=(2, 3)" in repr(fd.ConcreteDropout(shared_dims=(2, 3)))


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

    def loss(logit):
        return FF.concrete_dropout(x, logit, 0.5, rng_state=torch.tensor([3, 0])).square().mean()

    logit = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    loss(logit).backward()
    with torch.no_grad():
        slope = (loss(logit + 1e-5) - loss(logit - 1e-5)) / 2e-5
    assert float(logit.grad) == pytest.approx(float(slope), rel=1e-6)


def test_spatial():
    module = fd.ConcreteDropout(0.5, shared_dims=(2, 3))
    y = module(torch.ones(2, 3, 4, 5)).detach()
    assert torch.equal(y, y[:, :, :1, :1].expand_as(y))
