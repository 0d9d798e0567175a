"""Compiled code gives what eager code gives, masks included."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.compile.compiling import (
    STATE,
    VECTOR,
    Net,
    assert_equal,
    compiled,
    results_of,
    several,
    tensor,
)
from tests.module_helpers import drawing_nothing, kept, seed_and_state

every_backend = pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
CALLS = {
    "several": several,
    "identity": lambda x: FF.dropout(x, 0.3),
    "inplace": lambda x: FF.dropout(x * 2, 0.3, inplace=True),
    "classic": lambda x: FF.dropout(x, 0.3, mode="classic"),
    "classic evaluation": lambda x: FF.dropout(x, 0.3, False, mode="classic"),
    "alpha": lambda x: FF.dropout(x, 0.3, mode="alpha"),
    "shared": lambda x: FF.dropout(x, 0.3, shared_dims=(-1,)),
    "noise shape": lambda x: FF.dropout(x, 0.3, noise_shape=(1, None)),
    "p one": lambda x: FF.dropout(x, 1.0),
    "p one and residual": lambda x: FF.bias_dropout_add(x, None, x * 2, 1.0),
    "p zero": lambda x: FF.bias_act_dropout(x, None, 0.0, "gelu"),
    "state": lambda x: FF.bias_act_dropout(x, VECTOR, 0.4, "tanh", rng_state=STATE),
    "leaky_relu": lambda x: FF.bias_act_dropout(
        x, None, activation="leaky_relu", negative_slope=0.2
    ),
    "mixed": lambda x: F.dropout(FF.dropout(torch.rand_like(x) * x), 0.2) * torch.rand(6),
    "transposed": lambda x: FF.bias_act_dropout(x.t(), None, 0.3, "gelu").t(),
    "wide residual": lambda x: FF.bias_dropout_add(x.bfloat16(), None, x, 0.3),
    "mask": lambda x: x * FF.dropout_mask(x.shape, 0.3, STATE, like=x, shared_dims=(0,)),
    "new state": lambda x: (
        FF.dropout(x, rng_state=fd.new_rng_state()) + FF.dropout(x, rng_state=fd.new_rng_state())
    ),
    "views": lambda x: FF.dropout(x[:, ::2], 0.3).sum() + FF.dropout(x[1:], 0.3),
}


# torch's own random operators, which "mixed" has, may be decomposed by other backends.
BACKENDS = [("eager", name) for name in ("several", "inplace", "mixed")]
BACKENDS += [("aot_eager", name) for name in CALLS if name != "mixed"]


@pytest.mark.parametrize("backend, name", BACKENDS)
def test_equals_eager(backend, name):
    """Masks and values from one seed, and the generator left where eager leaves it."""
    x, call = tensor(4, 6), CALLS[name]
    wanted = results_of(call, x)
    after = torch.get_rng_state()
    function = compiled(call, backend)
    assert_equal(results_of(function, x), wanted)
    assert torch.equal(torch.get_rng_state(), after)
    assert_equal(results_of(function, x), wanted)
    with torch.no_grad():
        torch.manual_seed(0)
        assert torch.equal(function(x), wanted[0])


VIEWS = {"whole": lambda x: x, "part": lambda x: x[:, 1:], "transposed": lambda x: x.t()}


@pytest.mark.parametrize(
    "backend, view", [*itertools.product(["eager", "aot_eager"], VIEWS), ("inductor", "part")]
)
def test_inplace_on_an_argument(backend, view):
    """What the caller holds has changed."""

    def call(x):
        y = FF.dropout(VIEWS[view](x), 0.4, inplace=True)
        return y * 2

    function = compiled(call, backend)
    for seed in (0, 1):
        ours, theirs = tensor(4, 6), tensor(4, 6)
        torch.manual_seed(seed)
        y = function(ours)
        torch.manual_seed(seed)
        assert torch.equal(y, call(theirs))
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, tensor(4, 6))


@pytest.mark.parametrize("name", ["several", "new state", "shared"])
def test_inductor_equals_eager(name):
    x, call = tensor(4, 6), CALLS[name]
    function = compiled(call, "inductor")
    for seed in (0, 1):
        for ours, theirs in zip(
            results_of(function, x, seed=seed), results_of(call, x, seed=seed), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
            assert torch.equal(ours == 0, theirs == 0)


def test_masks_are_those_of_the_reference():
    """From the gradient; Inductor and eager could otherwise be wrong alike."""
    x = tensor(16, 6)
    state = seed_and_state(2)
    _, gradient = results_of(
        compiled(lambda x: FF.bias_act_dropout(x, None, 0.3, "sigmoid")), x, seed=2
    )
    assert torch.equal(gradient != 0, kept(x, 0.3, state))


def train(model, steps=4):
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = tensor(16, 6)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).pow(2).sum().backward()
        optimizer.step()
    return [one.detach().clone() for one in model.parameters()]


@every_backend
def test_training_loop(backend):
    torch.manual_seed(4)
    eager = Net()
    ours = copy.deepcopy(eager)
    before = [one.detach().clone() for one in ours.parameters()]
    trained = train(compiled(ours, backend))
    for one, other, start in zip(trained, train(eager), before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert not torch.equal(one, start) or (start == 0).all()


@pytest.mark.parametrize(
    "layer, shape",
    [
        (fd.Dropout(0.3), (4, 6)),
        (fd.Dropout(0.3, mode="classic"), (4, 6)),
        (fd.Dropout(torch.tensor(0.3)), (4, 6)),
        (fd.Dropout1d(0.3), (4, 6, 2)),
        (fd.Dropout2d(0.3), (4, 6, 2, 2)),
        (fd.Dropout3d(0.3), (2, 4, 6, 2, 2)),
        (fd.AlphaDropout(0.3), (4, 6)),
        (fd.FeatureAlphaDropout(0.3), (4, 6, 2)),
        (fd.BiasActDropout(6, 0.3), (4, 6)),
        (fd.LinearActDropout(6, 3, p=0.3), (4, 6)),
        (fd.MLP(6, 7, 3, p=0.3), (4, 6)),
    ],
    ids=str,
)
def test_modules(layer, shape):
    x = tensor(*shape)
    for training in (True, False):
        layer.train(training)
        assert_equal(results_of(compiled(layer), x), results_of(layer, x))


def test_evaluation_draws_nothing_and_training_after_it_does():
    model = Net().eval()
    call = compiled(model)
    x = tensor(4, 6)
    with drawing_nothing(), torch.no_grad():
        torch.testing.assert_close(call(x), model(x))
    model.train()
    assert_equal(results_of(call, x), results_of(model, x))
    assert not torch.equal(call(x), call(x))


@every_backend
@pytest.mark.parametrize("recording", [True, False])
def test_two_equal_calls_differ(backend, recording):
    """The compiler must not merge them, nor reuse one's random numbers."""

    def twice(x):
        return FF.dropout(x, 0.5), FF.dropout(x, 0.5), FF.dropout(x, 0.5)

    call = compiled(twice, backend)
    x = torch.ones(64, requires_grad=recording)
    with torch.set_grad_enabled(recording):
        torch.manual_seed(5)
        results = [*call(x), *call(x)]
        torch.manual_seed(5)
        wanted = [*twice(x), *twice(x)]
    for one, other in itertools.combinations(results, 2):
        assert not torch.equal(one, other)
    for one, other in zip(results, wanted, strict=True):
        assert torch.equal(one, other)
    if recording:
        gradients = [torch.autograd.grad(one.sum(), x, retain_graph=True)[0] for one in results]
        for mask, y in zip(gradients, wanted, strict=True):
            assert torch.equal(mask, y)


def test_inductor_that_draws_as_eager_does():
    """An option of Inductor's own random numbers, of which ours take no notice."""
    if not hasattr(torch._inductor.config, "align_random_eager"):
        pytest.skip("Inductor has no align_random_eager in this torch")
    call = lambda x: FF.dropout(FF.dropout(x, 0.5), 0.5)  # noqa: E731
    x = tensor(64, 3)
    with torch._inductor.config.patch(align_random_eager=True):
        assert_equal(results_of(compiled(call, "inductor"), x), results_of(call, x))


@pytest.mark.parametrize("name", ["bias_act_dropout", "state", "inplace", "layer", "residual"])
def test_two_equal_calls_of_each_function_differ(name):
    layer = fd.Dropout(0.5)
    one = {
        "bias_act_dropout": lambda x: FF.bias_act_dropout(x, None, 0.5, "relu"),
        "state": lambda x: FF.dropout(x, rng_state=fd.new_rng_state()),
        "inplace": lambda x: FF.dropout(x * 1, inplace=True),
        "layer": layer,
        "residual": lambda x: FF.bias_dropout_add(x, None, x),
    }[name]
    call = compiled(lambda x: (one(x), one(x)))
    x = torch.ones(64, requires_grad=True)
    first, second = call(x)
    assert not torch.equal(first, second)
    gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (first, second)]
    assert not torch.equal(*gradients)
    with torch.no_grad():
        assert not torch.equal(*call(x))


def test_layers_in_a_loop_differ():
    layer = fd.Dropout(0.5)
    call = compiled(lambda x: torch.stack([layer(x) for _ in range(8)]))
    masks = {tuple(row) for row in call(torch.ones(64)).tolist()}
    assert len(masks) == 8
