"""Constructors, repr, copies, state dicts and the probability of the drop-in layers."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn

import fused_dropout as fd
from tests.dropin.layers import WITH_MODE, every_layer, every_mode_layer, example, expected, layers
from tests.module_helpers import drawing_nothing, outcome, seed_and_state


@every_layer
@pytest.mark.parametrize("p", [-0.1, 1.1, 2, -math.inf])
def test_constructor_refuses_p(name, p):
    ours, theirs = (outcome(lambda ns=ns: getattr(ns, name)(p)) for ns in (fd, nn))
    assert ours == theirs
    assert ours[:2] == (
        ValueError,
        f"dropout probability has to be between 0 and 1, but got {p}",
    )


@every_layer
def test_signature(name):
    ours, theirs = (
        list(inspect.signature(getattr(ns, name)).parameters.values()) for ns in (fd, nn)
    )
    assert [(one.name, one.default) for one in ours[:2]] == [("p", 0.5), ("inplace", False)]
    assert [(one.name, one.default) for one in theirs] == [("p", 0.5), ("inplace", False)]
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in ours[2:])


@every_layer
def test_is_torchs_class(name):
    ours, theirs = layers(name, 0.25, True)
    assert isinstance(ours, type(theirs))
    assert (ours.p, ours.inplace, ours.training) == (0.25, True, True)


@every_layer
@pytest.mark.parametrize("arguments", [(), (0.25,), (0.25, True), (0,), (1,)])
def test_repr(name, arguments):
    ours, theirs = layers(name, *arguments)
    assert repr(ours) == repr(theirs)


@every_mode_layer
def test_repr_shows_the_mode(name):
    layer = getattr(fd, name)(0.25, mode="classic")
    assert repr(layer) == f"{name}(p=0.25, inplace=False, mode='classic')"


@every_mode_layer
@pytest.mark.parametrize("mode", ["alpha", "Classic", None])
def test_constructor_refuses_mode(name, mode):
    with pytest.raises(ValueError, match=f"{name}: mode is {mode!r}.*'inverted' or 'classic'"):
        getattr(fd, name)(mode=mode)


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_layers_have_no_mode(name):
    with pytest.raises(TypeError, match="mode"):
        getattr(fd, name)(mode="classic")


def repickle(layer):
    return pickle.loads(pickle.dumps(layer))


@every_layer
@pytest.mark.parametrize("roundtrip", [copy.copy, copy.deepcopy, repickle])
def test_copies(name, roundtrip):
    options = {"mode": "classic"} if name in WITH_MODE else {}
    layer = getattr(fd, name)(0.25, **options).eval()
    again = roundtrip(layer)
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    assert not again.training
    x = example(name)
    assert torch.equal(again(x), layer(x))


@every_layer
def test_state_dict_is_empty(name):
    ours, theirs = layers(name)
    assert ours.state_dict() == theirs.state_dict() == {}
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@every_layer
def test_state_of_torchs_layer_loads(name):
    _, theirs = layers(name, 0.25)
    ours = getattr(fd, name).__new__(getattr(fd, name))
    ours.__setstate__(copy.deepcopy(theirs.__dict__))
    assert repr(ours) == repr(theirs)
    x, state = example(name), seed_and_state(0)
    torch.testing.assert_close(ours(x), expected(name, x, 0.25, state))


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [2, -0.5, math.inf])
def test_p_set_later_is_checked_at_the_call(name, training, p):
    x = example(name)
    results = []
    for layer in layers(name):
        layer.train(training).p = p
        with drawing_nothing():
            results.append(outcome(lambda layer=layer: layer(x)))
    assert results[0] == results[1]
    assert results[0][0] is ValueError


@every_layer
def test_nan_is_no_probability(name):
    layer, x = getattr(fd, name)(), example(name)
    layer.p = math.nan
    for training in (True, False):
        with drawing_nothing(), pytest.raises(ValueError, match="between 0 and 1, but got nan"):
            layer.train(training)(x)


@every_layer
def test_p_set_later_counts(name):
    layer, x = getattr(fd, name)(0.5), example(name)
    layer.p = 0.125
    state = seed_and_state(1)
    torch.testing.assert_close(layer(x), expected(name, x, 0.125, state))


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_p_as_a_tensor(name, dtype):
    x = example(name)
    state = seed_and_state(2)
    y = getattr(fd, name)(torch.tensor(0.25, dtype=dtype))(x)
    torch.testing.assert_close(y, expected(name, x, 0.25, state))


@every_layer
def test_p_as_a_tensor_out_of_range(name):
    with pytest.raises(ValueError, match="has to be between 0 and 1, but got "):
        getattr(fd, name)(torch.tensor(1.5))


@every_layer
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "p", [torch.tensor(0.5, requires_grad=True), torch.tensor([0.5])], ids=["gradient", "1-d"]
)
def test_p_is_a_constant_scalar(name, training, p):
    x = example(name)
    for layer in layers(name):
        layer.train(training).p = p
        with drawing_nothing(), pytest.raises(TypeError):
            layer(x)
