"""Inverted and classic mode, and shared dimensions, of every module that drops elements."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.module_helpers import drawing_nothing, fixed_state, seed_and_state

P = 0.3
Q = reference.keep_count(P) / 65536
ROWS = 4096

# Made, and what it is given: as many inputs, of this width.
MODULES = {
    "Dropout": (lambda **o: fd.Dropout(P, **o), 1, 6),
    "BiasActDropout": (lambda **o: fd.BiasActDropout(6, P, **o), 1, 6),
    "LinearActDropout": (lambda **o: fd.LinearActDropout(5, 6, p=P, **o), 1, 5),
    "BiasDropoutAdd": (lambda **o: fd.BiasDropoutAdd(6, P, **o), 2, 6),
    "MLP": (lambda **o: fd.MLP(5, 6, 3, P, **o), 1, 5),
    "BiasGLUDropout": (lambda **o: fd.BiasGLUDropout(3, P, **o), 1, 6),
    "LinearGLUDropout": (lambda **o: fd.LinearGLUDropout(5, 6, p=P, **o), 1, 5),
    "GatedMLP": (lambda **o: fd.GatedMLP(5, 6, 3, P, **o), 1, 5),
    "DropoutAddLayerNorm": (
        lambda **o: fd.DropoutAddLayerNorm(6, P, branch_bias=True, prenorm=True, **o),
        2,
        6,
    ),
    "DropoutAddRMSNorm": (lambda **o: fd.DropoutAddRMSNorm(6, P, prenorm=True, **o), 2, 6),
}
# These take `mode` alone.
WITH_MODE = {
    **MODULES,
    "Dropout1d": (lambda **o: fd.Dropout1d(P, **o), 1, 6),
    "LockedDropout": (lambda **o: fd.LockedDropout(P, batch_first=True, **o), 1, 6),
    "DropPath": (lambda **o: fd.DropPath(P, **o), 1, 6),
    "WeightDrop": (lambda **o: fd.WeightDrop(nn.Linear(5, 6), "weight", P, **o), 1, 5),
    "DropConnectLinear": (lambda **o: fd.DropConnectLinear(5, 6, p=P, **o), 1, 5),
}
every_module = pytest.mark.parametrize("name", MODULES)
every_mode = pytest.mark.parametrize("mode", ["inverted", "classic"])


def make(name, **options):
    torch.manual_seed(0)
    make_module, count, width = WITH_MODE[name]
    module = make_module(**options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module, [torch.randn(width) for _ in range(count)]


def linear_output(result):
    """Of a normalisation the sum, which is linear in what is dropped."""
    return result[1] if isinstance(result, tuple) else result


def outputs(name, module, inputs):
    """Many outputs for the same input, under independent masks."""
    if name in ("WeightDrop", "DropConnectLinear"):  # one mask a call
        inputs = [one.expand(1, -1) for one in inputs]
        return torch.cat([module(*inputs) for _ in range(ROWS)])
    inputs = [one.expand(ROWS, 1, -1) for one in inputs]
    return linear_output(module(*inputs))[:, 0]


@every_mode
@pytest.mark.parametrize("name", WITH_MODE)
@torch.no_grad()
def test_expectations_of_training_and_evaluation_agree(name, mode):
    module, inputs = make(name, mode=mode)
    torch.manual_seed(1)
    y = outputs(name, module, inputs).double()
    module.eval()
    with drawing_nothing():
        wanted = linear_output(module(*(one[None, None] for one in inputs)))[0, 0].double()
    error = (y.mean(0) - wanted).abs()
    assert (error <= 5 * y.std(0) / ROWS**0.5 + 1e-6).all()
    assert y.std(0).max() > 0.01


@every_mode
@torch.no_grad()
def test_expectations_of_the_embedding_agree(mode):
    torch.manual_seed(2)
    module = fd.EmbeddingDropout(ROWS, 5, P, mode=mode)
    module.weight[:] = torch.randn(5)  # every word is the same one, dropped by itself
    y = module(torch.arange(ROWS)).double()
    wanted = module.eval()(torch.tensor([0])).double()
    assert ((y.mean(0) - wanted).abs() <= 5 * y.std(0) / ROWS**0.5).all()


@every_module
def test_evaluation_of_the_modes(name):
    """Classic evaluation multiplies what may be dropped by the probability to keep it."""
    inverted, inputs = make(name)
    classic = make(name, mode="classic")[0].eval()
    inputs = [one[None] for one in inputs]
    inverted.eval()
    a, b = (linear_output(module(*inputs)) for module in (inverted, classic))
    if name == "BiasDropoutAdd" or "Norm" in name:
        a, b = a - inputs[1], b - inputs[1]
    if "MLP" in name:
        a, b = a - inverted.fc2.bias, b - classic.fc2.bias
    torch.testing.assert_close(b, Q * a)
    for module in (inverted, classic):
        assert "mode='classic'" in repr(module) or module is inverted


# ---------------------------------------------------------------- moments


def sample_moments(y):
    """Mean and variance over rows, and five standard errors of each."""
    y = y.double()
    mean = y.mean(0)
    centered = (y - mean).square()
    variance = centered.mean(0)
    errors = variance.sqrt(), (centered - variance).square().mean(0).sqrt()
    return mean, variance, *(5 * error / len(y) ** 0.5 for error in errors)


def assert_moments(y, mean, variance):
    measured_mean, measured_variance, mean_error, variance_error = sample_moments(y)
    assert ((measured_mean - mean).abs() <= mean_error).all()
    assert ((measured_variance - variance).abs() <= variance_error).all()


@pytest.mark.parametrize("mode, variance", [("classic", 2.1875), ("inverted", 8.75)])
def test_moments_of_the_worked_example(mode, variance):
    """Uniform on 1, 2, 3, 4, kept with probability 1/2: E[y^2] is 7.5 and Var[y] 1.25."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(50000, 4)
    state = fixed_state()
    y = FF.dropout(values, 0.5, mode=mode, rng_state=state)
    mean = 1.25 if mode == "classic" else 2.5
    assert_moments(y.flatten(), mean, variance)
    a = 1 if mode == "classic" else 2
    per_element = torch.tensor([0.25, 1.0, 2.25, 4.0]) * a**2
    assert_moments(y, a * torch.tensor([0.5, 1.0, 1.5, 2.0]), per_element)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.75])
def test_moments_of_random_data(p):
    torch.manual_seed(3)
    values = torch.randn(200000) * 1.5 + 0.7
    q = reference.keep_count(p) / 65536
    square, mean, variance = values.square().mean(), values.mean(), values.var(unbiased=False)
    y = FF.dropout(values, p, mode="classic", rng_state=fixed_state())
    assert_moments(y, q * mean, q * (1 - q) * square + q**2 * variance)
    y = FF.dropout(values, p, rng_state=fixed_state())
    assert_moments(y, mean, variance + (1 - q) / q * square)


def test_the_variance_of_classic_mode_has_its_largest_value_inside():
    """At q = E[y^2] / (2 E[y]^2), which is 0.6 for the worked example."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat(50000)
    variances = [
        FF.dropout(values, 1 - q, mode="classic", rng_state=fixed_state()).var()
        for q in (0.3, 0.45, 0.6, 0.75, 0.9)
    ]
    assert max(variances) == variances[2]


# ---------------------------------------------------------------- shared dimensions


def unfused(name, module, inputs, state, shared_dims):
    """What the module computes, with the mask of the reference."""

    def drop(v):
        mask = reference.dropout_mask(v.shape, P, state, shared_dims=shared_dims)
        return torch.where(mask, v / Q, 0.0)

    x = inputs[0]
    if name == "Dropout":
        return drop(x)
    if name == "BiasActDropout":
        return drop(F.gelu(x + module.bias))
    if name == "LinearActDropout":
        return drop(F.gelu(F.linear(x, module.weight, module.bias)))
    if name == "BiasDropoutAdd":
        return inputs[1] + drop(x + module.bias)
    if name == "MLP":
        return module.fc2(drop(F.gelu(F.linear(x, module.fc1.weight, module.fc1.bias))))
    if name == "DropoutAddLayerNorm":
        return inputs[1] + drop(x + module.branch_bias)
    if name == "DropoutAddRMSNorm":
        return inputs[1] + drop(x)
    if name == "BiasGLUDropout":
        gate, value = (x + module.bias).chunk(2, -1)
        return drop(F.silu(gate) * value)
    first = module.fc1 if name == "GatedMLP" else module
    gate, value = F.linear(x, first.weight, first.bias).chunk(2, -1)
    hidden = drop(F.silu(gate) * value)
    return module.fc2(hidden) if name == "GatedMLP" else hidden


@every_module
@pytest.mark.parametrize("shared_dims, noise_shape", [((1,), (None, 1, None)), ((1, 2), (7, 1, 1))])
def test_shared_dims(name, shared_dims, noise_shape):
    inputs = [torch.randn(7, 4, WITH_MODE[name][2]) for _ in range(WITH_MODE[name][1])]
    for options in ({"shared_dims": shared_dims}, {"noise_shape": noise_shape}):
        module, _ = make(name, **options)
        state = seed_and_state(4)
        y = linear_output(module(*inputs))
        torch.testing.assert_close(y, unfused(name, module, inputs, state, shared_dims))
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            torch.manual_seed(4)
            assert torch.equal(linear_output(again(*inputs)), y)
        key, value = next(iter(options.items()))
        assert f"{key}={value}" in repr(module)


def test_shared_dims_of_a_normalisation_over_several_dimensions():
    x, residual = torch.randn(5, 4, 2, 3), torch.randn(5, 4, 2, 3)
    for options, shared in (
        ({"shared_dims": (1,)}, (1,)),
        ({"shared_dims": (-1, 2)}, (2, 3)),
        ({"shared_dims": (0, 2, 3)}, (0, 2, 3)),
        ({"noise_shape": (None, 1, 1, 1)}, (1, 2, 3)),
        ({"noise_shape": (5, None, 2, 3)}, ()),
    ):
        module = fd.DropoutAddLayerNorm((2, 3), P, prenorm=True, **options)
        state = seed_and_state(5)
        _, h = module(x, residual)
        wanted = residual + reference.dropout(x, P, state, shared_dims=shared)
        torch.testing.assert_close(h, wanted)
    # Along a dimension of one element there is nothing to share.
    module = fd.DropoutAddRMSNorm((1, 3), P, prenorm=True, noise_shape=(None, 1, 1))
    state = seed_and_state(5)
    _, h = module(x[:, 0, :1], residual[:, 0, :1])
    wanted = residual[:, 0, :1] + reference.dropout(x[:, 0, :1], P, state, shared_dims=(1, 2))
    torch.testing.assert_close(h, wanted)
    with drawing_nothing(), pytest.raises(ValueError, match="some of the 2 normalised dimensions"):
        fd.DropoutAddLayerNorm((2, 3), P, shared_dims=(3,))(x, residual)


# ---------------------------------------------------------------- flags and errors


@pytest.mark.parametrize("name", [*WITH_MODE, "EmbeddingDropout", "AlphaDropout"])
def test_is_dropout(name):
    if name in ("MLP", "GatedMLP"):  # what drops is the first layer
        assert not getattr(getattr(fd, name), "is_dropout", False)
        assert type(make(name)[0].fc1).is_dropout is True
    else:
        assert getattr(fd, name).is_dropout is True


@pytest.mark.parametrize("name", WITH_MODE)
def test_bad_mode(name):
    for mode in ("alpha", "other", None):
        with pytest.raises(ValueError, match=f"mode is {mode!r}, but expected 'inverted' or"):
            make(name, mode=mode)


@every_module
def test_bad_sharing(name):
    with pytest.raises(ValueError, match=r"shared_dims names a dimension twice: \(1, 1\)"):
        make(name, shared_dims=(1, 1))
    with pytest.raises(ValueError, match="only one of them"):
        make(name, shared_dims=(1,), noise_shape=(None, 1))
    module, inputs = make(name, shared_dims=(5,))
    with drawing_nothing(), pytest.raises(IndexError, match="5"):
        module(*(one[None] for one in inputs))
    module, inputs = make(name, noise_shape=(None, 1, None))
    with drawing_nothing(), pytest.raises(ValueError, match="noise_shape has 3 entries"):
        module(*(one[None] for one in inputs))


def test_pickles_of_torchs_own_layers():
    """A layer whose class is changed in place has none of the options."""
    layer = nn.Dropout(0.5)
    layer.__class__ = fd.Dropout
    assert layer(torch.ones(4)).shape == (4,) and repr(layer) == "Dropout(p=0.5, inplace=False)"
