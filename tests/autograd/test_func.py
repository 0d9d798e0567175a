"""The transforms of torch.func."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp, vjp, vmap

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import _vmap, reference
from fused_dropout.functional import _transforms
from tests.autograd.derivatives import STATE, assert_all_close, call_of, every_activation, operands
from tests.module_helpers import drawing_nothing, fixed_state, kept, outcome, seed_and_state


@pytest.fixture(params=["kernels", "compositions"], autouse=True)
def way(request, monkeypatch):
    """Which of the two serves a call depends on sizes, but the results do not."""
    kernels = request.param == "kernels"
    monkeypatch.setattr(_transforms, "_SMALL", 0 if kernels else math.inf)
    monkeypatch.setattr(_vmap, "_FEW", 32 if kernels else 0)
    monkeypatch.setattr(_vmap, "_LARGE", math.inf)


@every_activation
def test_func_grad_and_vjp(activation):
    ours, theirs = call_of(activation)
    inputs = tuple(one.detach() for one in operands())
    upstream = torch.randn(3, 5, dtype=torch.float64)

    def loss(call):
        return lambda *inputs: (call(*inputs) * upstream).sum()

    wanted = torch.autograd.grad(loss(theirs)(*(leaves := operands())), leaves)
    assert_all_close(grad(loss(ours), (0, 1, 2))(*inputs), wanted)
    assert_all_close(vjp(ours, *inputs)[1](upstream), wanted)
    second = [
        grad(lambda x, call=call: grad(loss(call))(x, *inputs[1:]).pow(2).sum())(inputs[0])
        for call in (ours, theirs)
    ]
    torch.testing.assert_close(*second)


@every_activation
@pytest.mark.parametrize("transform", ["jacrev", "hessian", "jvp", "vmap", "twice"])
def test_transforms_of_func_grad(activation, transform):
    """Of the gradients of ours, and of the composition that torch differentiates."""
    inputs = tuple(one.detach() for one in operands())

    def gradients(call):
        return grad(lambda *inputs: call(*inputs).pow(2).sum(), (0, 1, 2))

    results = []
    for call in call_of(activation):
        of = gradients(call)
        if transform == "jvp":
            found = jvp(of, inputs, inputs)[1]
        elif transform == "vmap":
            x, bias, residual = inputs
            several = torch.stack([x, 2 * x], -1), torch.stack([bias, -bias], -1), residual
            found = vmap(of, (-1, -1, None), randomness="same")(*several)
        elif transform == "twice":
            found = grad(lambda *inputs, of=of: sum(one.sum() for one in of(*inputs)))(*inputs)
            found = (found,)
        else:
            derivative = getattr(torch.func, transform)
            found = (derivative(lambda x, call=call: call(x, *inputs[1:]).sum(-1))(inputs[0]),)
        results.append(found)
    assert_all_close(*results)


def test_func_grad_draws_as_eager_does():
    x = torch.randn(64)
    state = seed_and_state(4)
    gradient = grad(lambda x: (FF.dropout(x, 0.5) ** 2).sum())(x)
    assert torch.equal(gradient, x * 8 * kept(x, 0.5, state))


def behaviour(call):
    """What a random function of equal slices does: an error, or slices that stay equal or not."""
    error, value, _ = outcome(call)
    return error or ("same" if (value == value[:1]).all() else "different")


TRANSFORMS = {
    "vmap": lambda f, randomness: vmap(f, randomness=randomness),
    "vmap of an unbatched argument": lambda f, randomness: (
        lambda x: vmap(lambda x, _: f(x), (None, 0), randomness=randomness)(x[0], x)
    ),
    "vmap over the last dimension": lambda f, randomness: vmap(f, -1, randomness=randomness),
    "vmap of grad": lambda f, randomness: vmap(grad(lambda x: f(x).sum()), randomness=randomness),
    "grad of vmap": lambda f, randomness: grad(lambda x: vmap(f, randomness=randomness)(x).sum()),
    "vmap of jvp": lambda f, randomness: vmap(
        lambda x: jvp(f, (x,), (torch.ones_like(x),))[1], randomness=randomness
    ),
    "jvp of vmap": lambda f, randomness: (
        lambda x: jvp(vmap(f, randomness=randomness), (x,), (torch.ones_like(x),))[1]
    ),
    "vmap of a loss over two": lambda f, randomness: vmap(
        lambda x: f(f(x) + 1), randomness=randomness
    ),
    "vmap of vjp": lambda f, randomness: vmap(
        lambda x: vjp(f, x)[1](torch.ones_like(x))[0], randomness=randomness
    ),
}


def in_place(function):
    def call(x, p):
        return function(x * 1, p, inplace=True)

    return call


DROPS = {
    "dropout": (FF.dropout, F.dropout),
    "in place": (in_place(FF.dropout), in_place(F.dropout)),
    "bias_act_dropout": (
        lambda x, p: FF.bias_act_dropout(x, torch.ones(x.shape[-1]), p, "relu"),
        lambda x, p: F.dropout(F.relu(x + torch.ones(x.shape[-1])), p),
    ),
    "shared": (
        lambda x, p: FF.dropout(x, p, shared_dims=(0,)),
        F.dropout,
    ),
    "module": (lambda x, p: fd.Dropout(p)(x), F.dropout),
    "alpha": (
        lambda x, p: FF.dropout(x, p, mode="alpha"),
        lambda x, p: F.alpha_dropout(x, p, training=True),
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("drop", DROPS)
def test_vmap_randomness_is_torchs(drop, transform):
    x = torch.full((6, 6, 6), 2.0)
    for randomness in ("error", "same", "different"):
        torch.manual_seed(5)
        ours, theirs = (
            behaviour(lambda one=one: TRANSFORMS[transform](lambda x: one(x, 0.5), randomness)(x))  # noqa: B023
            for one in DROPS[drop]
        )
        assert ours == theirs
        assert ours in (RuntimeError, randomness)


@pytest.mark.parametrize("inner", ["error", "same", "different"])
@pytest.mark.parametrize("outer", ["error", "same", "different"])
def test_nested_vmap_randomness_is_torchs(inner, outer):
    torch.manual_seed(6)
    x = torch.rand(4, 5, 64) + 1
    results = []
    for drop in (FF.dropout, F.dropout):
        call = vmap(vmap(lambda x, drop=drop: drop(x, 0.5), randomness=inner), randomness=outer)
        error, value, _ = outcome(lambda call=call: call(x))
        if error:
            results.append(error)
        else:
            mask = value != 0
            results.append([(mask == mask[:1]).all().item(), (mask == mask[:, :1]).all().item()])
    assert results[0] == results[1]


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_vmap_of_what_draws_nothing(randomness):
    x = torch.randn(4, 8)
    for call in (
        lambda x: FF.dropout(x, 0.5, training=False),
        lambda x: FF.dropout(x, 0.0),
        lambda x: FF.dropout(x, 1.0),
        lambda x: FF.dropout(x, 0.5, training=False, mode="classic"),
        lambda x: FF.bias_act_dropout(x, None, 0.5, "gelu", training=False),
        lambda x: FF.bias_act_dropout(x, None, 1.0, "gelu"),
    ):
        with drawing_nothing():
            torch.testing.assert_close(vmap(call, randomness=randomness)(x), call(x))


def test_vmap_same_draws_as_eager_does():
    """One mask for all, that of one example on its own."""
    x = torch.randn(5, 64)
    state = seed_and_state(7)
    y = vmap(lambda x: FF.dropout(x, 0.5), randomness="same")(x)
    torch.testing.assert_close(y, torch.stack([reference.dropout(one, 0.5, state) for one in x]))


def test_vmap_different_has_the_right_share():
    torch.manual_seed(8)
    y = vmap(lambda x: FF.dropout(x, 0.25), randomness="different")(torch.ones(64, 1024))
    share = (y == 0).double().mean().item()
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 65536) ** 0.5
    assert len({tuple(row) for row in (y == 0).tolist()}) == 64


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_vmap_with_a_state(activation, randomness):
    """Nothing is random then; one state for all, or one for each."""
    x, bias, residual = (one.detach() for one in operands(shape=(4, 6, 5)))
    states = torch.stack([fixed_state(seed, 4 * seed) for seed in range(4)])

    def call(x, residual, state):
        return FF.bias_act_dropout(x, bias, 0.5, activation, residual=residual, rng_state=state)

    def wanted(states):
        return torch.stack(
            [
                reference.bias_act_dropout(*one, 0.5, activation, state, residual=r)
                for one, r, state in zip([(x_, bias) for x_ in x], residual, states, strict=True)
            ]
        )

    with drawing_nothing():
        each = vmap(call, randomness=randomness)(x, residual, states)
        one = vmap(call, (0, 0, None), randomness=randomness)(x, residual, states[1])
        only = vmap(call, (None, None, 0), randomness=randomness)(x[0], residual[0], states)
    torch.testing.assert_close(each, wanted(states))
    torch.testing.assert_close(one, wanted(states[1:2].expand(4, 2)))
    torch.testing.assert_close(
        only, torch.stack([call(x[0], residual[0], state) for state in states])
    )


@pytest.mark.parametrize(
    "dims", [(0, 0, 0), (0, None, 0), (None, 0, 0), (None, None, 0), (1, 0, 0)]
)
def test_vmap_over_any_operand(dims):
    shapes = [(6, 5), (5,), (6, 5)]
    inputs = [
        torch.randn(shape if dim is None else (*shape[:dim], 4, *shape[dim:]))
        for shape, dim in zip(shapes, dims, strict=True)
    ]

    def call(x, bias, residual):
        return FF.bias_act_dropout(x, bias, 0.5, "gelu", residual=residual, rng_state=STATE)

    y = vmap(call, dims)(*inputs)
    for index in range(4):
        one = [
            tensor if dim is None else tensor.select(dim, index)
            for tensor, dim in zip(inputs, dims, strict=True)
        ]
        torch.testing.assert_close(y[index], call(*(tensor.contiguous() for tensor in one)))


@pytest.mark.parametrize("dims", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"shared_dims": (0,)}, {"mode": "alpha"}], ids=str)
def test_nested_vmap_with_states(options, dims):
    """One state for the examples of an inner vmap; and states of which an inner vmap knows none."""
    states = torch.stack([fixed_state(seed) for seed in range(3)])
    x = torch.randn(4, 5, 6).movedim(0, dims[0])

    def call(x, state):
        return FF.bias_act_dropout(x, None, 0.5, "gelu", rng_state=state, **options)

    each_state = vmap(lambda state: vmap(lambda x: call(x, state), dims[0])(x))(states)
    each_example = vmap(lambda x: vmap(lambda state: call(x, state))(states), dims[0], 1)(x)
    assert torch.equal(each_state == 0, each_example == 0)
    torch.testing.assert_close(each_state, each_example)
    for i, state in enumerate(states):
        for j in range(4):
            one = x.select(dims[0], j)
            torch.testing.assert_close(each_state[i, j], call(one.contiguous(), state))
    masks = vmap(
        lambda state: vmap(lambda x: x * FF.dropout_mask(x.shape, 0.5, state), dims[0], dims[1])(x)
    )(states)
    for i, state in enumerate(states):
        expected = x.movedim(dims[0], 0) * kept(x.select(dims[0], 0).contiguous(), 0.5, state)
        assert torch.equal(masks[i], expected.movedim(0, dims[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("residual", [False, True])
def test_vmap_over_upstream_gradients(activation, residual, dtype):
    """One call of the kernel; the sum of the bias gradient is rounded once for each example."""
    x, bias, r = (
        one.detach().to(dtype).requires_grad_() for one in operands(shape=(64, 5), dtype=dtype)
    )
    given = [x, bias, *([r] if residual else [])]
    y = FF.bias_act_dropout(
        x, bias, 0.5, activation, residual=r if residual else None, rng_state=STATE
    )
    batch = torch.randn(4, 64, 5, dtype=dtype)

    def gradients(dy):
        return torch.autograd.grad(y, given, dy, retain_graph=True)

    at_once = vmap(gradients)(batch)
    for index in range(4):
        assert_all_close([one[index] for one in at_once], gradients(batch[index]))


def test_vmap_of_shared_dimensions():
    x = torch.ones(4, 3, 5, 7)

    def call(x, state):
        return FF.dropout(x, 0.5, shared_dims=(-1,), rng_state=state)

    states = torch.stack([fixed_state(seed) for seed in range(4)])
    y = vmap(call)(x, states)
    for index in range(4):
        assert torch.equal(y[index], call(x[index], states[index]))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_per_sample_gradients(randomness):
    """The use of vmap(grad): each example's gradient, under a mask of its own or of all."""
    torch.manual_seed(9)
    model = fd.MLP(6, 32, 1, p=0.5)
    parameters = {key: value.detach() for key, value in model.named_parameters()}
    x, y = torch.randn(5, 6), torch.randn(5, 1)

    def loss(parameters, x, y):
        return F.mse_loss(functional_call(model, parameters, (x[None],)), y[None])

    torch.manual_seed(10)
    gradients = vmap(grad(loss), (None, 0, 0), randomness=randomness)(parameters, x, y)
    assert {key: one.shape[1:] for key, one in gradients.items()} == {
        key: one.shape for key, one in parameters.items()
    }
    dead = (gradients["fc2.weight"] == 0).flatten(1)
    assert (dead == dead[:1]).all().item() == (randomness == "same")
    if randomness == "same":
        for index in range(5):
            torch.manual_seed(10)
            one = grad(loss)(parameters, x[index], y[index])
            for key in parameters:
                torch.testing.assert_close(gradients[key][index], one[key])
