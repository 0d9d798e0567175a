"""When a random number is drawn, and from which generator."""

import math

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.dropin.layers import LAYERS, every_layer, example
from tests.module_helpers import drawing_nothing, fixed_state


@every_layer
def test_eval_returns_its_input(name):
    x = example(name)
    with drawing_nothing():
        assert getattr(fd, name)(0.5).eval()(x) is x
        assert getattr(fd, name)(1.0).eval()(x) is x
        assert getattr(fd, name)(0.5, inplace=True).eval()(x) is x


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_p_zero_returns_its_input(name, training):
    x = example(name)
    for inplace in (False, True):
        with drawing_nothing():
            assert getattr(fd, name)(0.0, inplace).train(training)(x) is x


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_empty_returns_its_input(name, training):
    x = torch.empty(0, *LAYERS[name][0][1:])
    for inplace in (False, True):
        with drawing_nothing():
            assert getattr(fd, name)(0.5, inplace).train(training)(x) is x


@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p, shape", [(0.0, (3, 5)), (0, ()), (0.5, (3, 0)), (1.0, (0,))])
def test_nothing_to_drop_in_any_mode(mode, training, p, shape):
    x = torch.randn(shape)
    with drawing_nothing():
        assert FF.dropout(x, p, training, mode=mode) is x


@every_layer
@pytest.mark.parametrize("p", [1, 1.0, torch.tensor(1.0)])
def test_p_one_gives_zeros(name, p):
    x = example(name, requires_grad=True)
    with drawing_nothing():
        y = getattr(fd, name)(p)(x)
    assert y is not x
    assert torch.equal(y, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("mode", FF.MODES)
def test_p_one_drops_what_is_not_finite(mode):
    x = torch.tensor([1.0, math.nan, math.inf, -math.inf])
    with drawing_nothing():
        assert torch.equal(FF.dropout(x, 1.0, mode=mode), torch.zeros(4))


def test_p_one_in_evaluation():
    x = torch.randn(4)
    with drawing_nothing():
        assert FF.dropout(x, 1.0, training=False) is x
        assert torch.equal(FF.dropout(x, 1.0, training=False, mode="classic"), torch.zeros(4))


@every_layer
def test_training_draws_once(name):
    """64 bits of the generator for each call, whatever the size."""
    x = example(name)
    torch.manual_seed(5)
    getattr(fd, name)()(x)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    fd.new_rng_state()
    assert torch.equal(torch.get_rng_state(), after)


@every_layer
def test_manual_seed(name):
    layer, x = getattr(fd, name)(), torch.ones(8, 16, *LAYERS[name][0][2:])
    torch.manual_seed(16)
    first, second = layer(x), layer(x)
    torch.manual_seed(16)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    assert not torch.equal(first, second)
    torch.manual_seed(17)
    assert not torch.equal(layer(x), first)


def test_explicit_generator():
    x = torch.ones(64)
    torch.manual_seed(18)
    wanted = FF.dropout(x), FF.dropout(x)
    generator = torch.Generator().manual_seed(18)
    with drawing_nothing():
        assert torch.equal(FF.dropout(x, generator=generator), wanted[0])
        state = fd.new_rng_state(generator=generator)
    assert torch.equal(FF.dropout(x, rng_state=state), wanted[1])


def test_rng_state_wins_over_a_generator():
    generator = torch.Generator().manual_seed(19)
    before = generator.get_state()
    x = torch.ones(64)
    with drawing_nothing():
        y = FF.dropout(x, generator=generator, rng_state=fixed_state())
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(y, reference.dropout(x, 0.5, fixed_state()))


def test_rng_state_does_not_win_over_evaluation():
    x = torch.ones(64)
    assert FF.dropout(x, training=False, rng_state=fixed_state()) is x


def test_get_and_set_rng_state():
    x = torch.ones(64)
    FF.dropout(x)
    before = torch.get_rng_state()
    y = FF.dropout(x)
    assert not torch.equal(FF.dropout(x), y)
    torch.set_rng_state(before)
    assert torch.equal(FF.dropout(x), y)


def test_fork_rng():
    x = torch.ones(64)
    torch.manual_seed(20)
    with torch.random.fork_rng(devices=[]):
        inside = FF.dropout(x)
    assert torch.equal(FF.dropout(x), inside)


def test_draws_interleave_with_torchs():
    """Our draws and torch's come from one sequence of random numbers, in the order of the calls."""
    x = torch.ones(64)
    torch.manual_seed(21)
    first = torch.rand(3)
    y = FF.dropout(x)
    last = torch.rand(3)
    torch.manual_seed(21)
    assert torch.equal(torch.rand(3), first)
    fd.new_rng_state()
    assert torch.equal(torch.rand(3), last)
    assert not torch.equal(FF.dropout(x), y)


def test_new_rng_state():
    torch.manual_seed(22)
    states = torch.stack([fd.new_rng_state() for _ in range(64)])
    assert states.dtype == torch.int64
    assert (states[:, 1] == 0).all()
    assert len(set(states[:, 0].tolist())) == 64
    assert (states[:, 0] < 0).any(), "the seed has 64 bits"
    assert (states[:, 0] > 1 << 32).any()
