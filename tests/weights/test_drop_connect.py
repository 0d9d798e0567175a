"""DropConnect: masks, and evaluation by the moments of all masks."""

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
from fused_dropout import reference
from tests.module_helpers import drawing_nothing, seed_and_state

P = 0.3
SCALE = reference.scale(P)


def make(**options):
    torch.manual_seed(0)
    options = {"p": P, **options}
    return fd.DropConnectLinear(5, 6, **options), torch.randn(4, 5, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_training(mode, activation, bias):
    module, x = make(mode=mode, activation=activation, bias=bias)
    state = seed_and_state(1)
    y = module(x)
    weight = reference.dropout(module.weight, P, state, mode=mode)
    wanted = reference.activation(activation, F.linear(x, weight, module.bias))
    torch.testing.assert_close(y, wanted)
    wrt, upstream = [x, *module.parameters()], torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(one, wrt, upstream) for one in (y, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(ours[1] == 0, weight == 0) or activation != "identity"


@pytest.mark.parametrize("evaluation", ["mean", "gaussian"])
def test_evaluation_without_an_activation_is_the_linear_layer(evaluation):
    module, x = make(evaluation=evaluation)
    with drawing_nothing():
        y = module.eval()(x)
    assert torch.equal(y, F.linear(x, module.weight, module.bias))


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_evaluation_by_the_mean(mode):
    module, x = make(activation="relu", mode=mode)
    q = 1 / SCALE if mode == "classic" else 1
    with drawing_nothing():
        y = module.eval()(x)
    torch.testing.assert_close(y, F.relu(F.linear(x, q * module.weight, module.bias)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_moments_over_every_mask(mode, bias):
    """All 2^4 masks of a row of the matrix, with their probabilities."""
    q, weight, x = 1 / SCALE, torch.randn(4, dtype=torch.float64), torch.randn(4).double()
    a = SCALE if mode == "inverted" else 1.0
    module = fd.DropConnectLinear(4, 1, bias, P, mode=mode, dtype=torch.float64)
    with torch.no_grad():
        module.weight[0] = weight
    offset = module.bias.detach() if bias else torch.zeros(1)
    values, chances = [], []
    for mask in itertools.product((0.0, 1.0), repeat=4):
        mask = torch.tensor(mask, dtype=torch.float64)
        values.append((a * mask * weight * x).sum() + offset[0])
        chances.append(q ** mask.sum() * (1 - q) ** (4 - mask.sum()))
    values, chances = torch.stack(values), torch.stack(chances)
    mean = (chances * values).sum()
    variance = (chances * (values - mean).square()).sum()
    for moments in (
        module.moments(x),
        reference.drop_connect_moments(x, module.weight, module.bias, P, mode),
    ):
        torch.testing.assert_close(moments[0][0], mean)
        torch.testing.assert_close(moments[1][0], variance)


@torch.no_grad()
def test_moments_of_training():
    module, x = make()
    mean, variance = module.moments(x)
    torch.manual_seed(2)
    u = torch.stack([module(x) for _ in range(4000)]).double()
    error = u.std(0) / 4000**0.5
    assert ((u.mean(0) - mean).abs() <= 5 * error).all()
    centered = (u - u.mean(0)).square()
    assert ((centered.mean(0) - variance).abs() <= 5 * centered.std(0) / 4000**0.5).all()


@pytest.mark.parametrize("mode", ["inverted", "classic"])
@torch.no_grad()
def test_gaussian_is_nearer_to_training_than_the_mean(mode):
    """The mean over many masks behind a ReLU, where many weights make the sum nearly normal."""
    torch.manual_seed(3)
    module = fd.DropConnectLinear(
        64, 16, p=0.5, activation="relu", evaluation="gaussian", samples=4000, mode=mode
    )
    x = torch.randn(8, 64)
    truth = torch.stack([module(x) for _ in range(3000)]).mean(0)
    module.eval()
    gaussian = module(x)
    module.evaluation = "mean"
    by_mean = module(x)
    errors = [(one - truth).square().mean().sqrt().item() for one in (gaussian, by_mean)]
    assert errors[0] < errors[1] / 4
    # The mean of a rectified normal variable is known.
    mean, variance = module.moments(x)
    deviation, normal = variance.sqrt(), torch.distributions.Normal(0.0, 1.0)
    z = mean / deviation
    wanted = mean * normal.cdf(z) + deviation * normal.log_prob(z).exp()
    assert ((gaussian - wanted).abs() <= 5 * deviation / 4000**0.5).all()


@torch.no_grad()
def test_samples(monkeypatch):
    """Drawn in parts where memory is short; by torch's generator, one after another."""
    module, x = make(activation="tanh", evaluation="gaussian", samples=50)
    module.eval()
    torch.manual_seed(4)
    y = module(x)
    torch.manual_seed(4)
    assert torch.equal(module(x), y)
    assert not torch.equal(module(x), y)
    parts = "fused_dropout.modules.drop_connect._MAX_SAMPLE_ELEMENTS"
    for numbers in (24 * 7, 1):
        monkeypatch.setattr(parts, numbers)
        assert module(x).shape == y.shape
        torch.testing.assert_close(module(x), y, atol=0.5, rtol=0)


def test_gradient_of_the_evaluation_at_zero():
    module, _ = make(activation="relu", evaluation="gaussian")
    x = torch.zeros(4, 5, requires_grad=True)
    (dx,) = torch.autograd.grad(module.eval()(x).sum(), x)
    assert dx.isfinite().all()


@pytest.mark.parametrize("evaluation", ["mean", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype(dtype, evaluation):
    module, x = make(activation="relu", evaluation=evaluation, dtype=dtype)
    x = x.detach().to(dtype) * 200  # whose squares are beyond the range of float16
    assert module(x).dtype == dtype
    y = module.eval()(x)
    assert y.dtype == dtype and y.isfinite().all()


@pytest.mark.parametrize("evaluation", ["mean", "gaussian"])
def test_autocast(evaluation):
    module, x = make(activation="relu", evaluation=evaluation)
    for training in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = module.train(training)(x)
        assert y.isfinite().all()


@pytest.mark.parametrize("shape", [(5,), (0, 5), (2, 3, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_shapes(shape, training):
    module, _ = make(activation="relu", evaluation="gaussian")
    assert module.train(training)(torch.randn(shape)).shape == (*shape[:-1], 6)


def test_as_a_linear_layer():
    module, x = make(activation="relu", evaluation="gaussian")
    assert type(module).is_dropout is True
    theirs = nn.Linear(5, 6)
    theirs.load_state_dict(module.state_dict())
    module.load_state_dict(theirs.state_dict())
    assert list(module.state_dict()) == ["weight", "bias"]
    assert list(make(bias=False)[0].state_dict()) == ["weight"]
    torch.manual_seed(5)
    first = fd.DropConnectLinear(5, 6).weight
    torch.manual_seed(5)
    assert torch.equal(first, nn.Linear(5, 6).weight)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(again) == repr(module)
        torch.manual_seed(6)
        y = again(x)
        torch.manual_seed(6)
        assert torch.equal(module(x), y)
    assert repr(module) == (
        "DropConnectLinear(in_features=5, out_features=6, bias=True, p=0.3, activation='relu', "
        "evaluation='gaussian', samples=100)"
    )
    assert repr(fd.DropConnectLinear(5, 6, mode="classic")).endswith(
        "activation='identity', evaluation='mean', mode='classic')"
    )


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend):
    module, x = make(activation="relu", evaluation="gaussian", samples=5)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    for training in (True, False):
        module.train(training)
        torch.manual_seed(7)
        y = module(x)
        torch.manual_seed(7)
        torch.testing.assert_close(compiled(x), y)


def test_bad_input():
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            fd.DropConnectLinear(5, 6, p=p)
    for key, values in {
        "activation": ("softmax", None),
        "evaluation": ("median", None),
        "samples": (0, -1, 2.5, True, None),
        "mode": ("alpha", None),
    }.items():
        for value in values:
            with pytest.raises(ValueError, match=f"DropConnectLinear: {key} is {value!r}, but"):
                fd.DropConnectLinear(5, 6, **{key: value})
    module, x = make(p=1.0, activation="relu", evaluation="gaussian")
    assert torch.equal(module(x), F.relu(module.bias).expand(4, 6))
    with drawing_nothing(), pytest.raises(ValueError, match=r"p is 1.0, but .* needs p < 1"):
        module.eval()(x)
    module.p = 2
    for training in (True, False):
        with pytest.raises(ValueError, match="but got 2"):
            module.train(training)(x)
