"""Classic mode, means and variances."""

import math

import pytest
import torch
import torch.nn.functional as F

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.dropin.layers import LAYERS, every_layer, every_mode_layer, example, layers
from tests.module_helpers import drawing_nothing, kept, seed_and_state


@every_mode_layer
def test_classic_mode(name):
    x, shared = example(name), LAYERS[name][1]
    layer = getattr(fd, name)(0.3, mode="classic")
    state = seed_and_state(11)
    y = layer(x)
    assert torch.equal(y, torch.where(kept(x, 0.3, state, shared), x, 0.0))
    with drawing_nothing():
        z = layer.eval()(x)
    assert z is not x
    assert torch.equal(z, x * torch.tensor(reference.keep_count(0.3) / 65536, dtype=torch.float32))


def moments(y):
    return y.mean().item(), y.var(correction=0).item()


def close(measured, wanted, deviation):
    """Within five standard errors: a test at a fixed seed that is right fails for 1e-6 of seeds."""
    return abs(measured - wanted) < 5 * deviation


N = 1 << 20


@pytest.mark.parametrize(
    "mode, mean, variance", [("inverted", 2.5, 8.75), ("classic", 1.25, 2.1875)]
)
def test_moments_of_the_worked_example(mode, mean, variance):
    """x uniform on {1, 2, 3, 4} and p = 0.5."""
    torch.manual_seed(12)
    x = torch.randint(1, 5, (N,)).double()
    y = FF.dropout(x, 0.5, mode=mode)
    measured = moments(y)
    assert close(measured[0], mean, math.sqrt(variance / N))
    fourth = (y - y.mean()).pow(4).mean().item()
    assert close(measured[1], variance, math.sqrt((fourth - variance**2) / N))


@pytest.mark.parametrize("p", [0.1, 0.33, 0.5, 0.9])
def test_classic_training_expects_what_evaluation_computes(p):
    torch.manual_seed(13)
    layer = fd.Dropout(p, mode="classic")
    x = torch.tensor([1.0, -2.0, 3.0, 4.0]).double()
    y = layer(x.expand(N // 4, 4))
    deviation = (x.abs() * math.sqrt(p * (1 - p) / (N // 4))).tolist()
    for measured, wanted, error in zip(
        y.mean(0).tolist(), layer.eval()(x).tolist(), deviation, strict=True
    ):
        assert close(measured, wanted, error)


@every_layer
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_statistics_are_torchs(name, p):
    """Mean and variance over many channels of normal input, ours and torch's from one input."""
    torch.manual_seed(14)
    shape = {"Dropout": (N // 4,), "AlphaDropout": (N // 4,)}.get(
        name, (256, 256, *[2] * len(LAYERS[name][1]))
    )
    x = torch.randn(shape).double()
    independent = N // 4 if len(shape) == 1 else 256 * 256
    (mean, variance), (their_mean, their_variance) = (
        moments(layer(x)) for layer in layers(name, p)
    )
    # Of a difference of two, with a fourth moment of at most 3 / (1 - p)^3.
    assert close(mean, their_mean, math.sqrt(2 * max(variance, 1) / independent))
    assert close(variance, their_variance, math.sqrt(6 / (1 - p) ** 3 / independent))


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_alpha_keeps_mean_and_variance(name, p):
    """Of an input of zero mean and unit variance, that is of what SELU gives."""
    torch.manual_seed(15)
    y = getattr(fd, name)(p)(torch.randn(512, 512).double())
    mean, variance = moments(y)
    assert close(mean, 0, 1 / 512)
    assert close(variance, 1, math.sqrt((y**4).mean().item()) / 512)


def test_alpha_dropout_is_off_by_default_in_torch():
    """`FF.dropout(mode="alpha")` is on by default: the one default that differs."""
    x = torch.randn(8)
    assert torch.equal(F.alpha_dropout(x), x)
    assert not torch.equal(FF.dropout(x, mode="alpha"), x)
