"""Derivatives: of every order, in both directions, and under the transforms of torch.func.

The reference composes its result from plain torch operators, so that torch's own differentiation
of it says what every derivative has to be.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from module_helpers import drawing_nothing, fixed_state, kept, outcome, seed_and_state
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference

STATE = fixed_state()
every_activation = pytest.mark.parametrize("activation", FF.ACTIVATIONS)
needs = pytest.mark.parametrize("bias, residual", [(True, True), (True, False), (False, False)])


def operands(bias=True, residual=True, shape=(3, 5), dtype=torch.float64):
    """x, bias and residual, or None in their place; away from the kinks of the activations."""
    generator = torch.Generator().manual_seed(0)
    made = [
        torch.randn(size, generator=generator, dtype=dtype) * 2
        for size in (shape, shape[-1:], shape)
    ]
    return [
        one.requires_grad_() if wanted else None
        for one, wanted in zip(made, (True, bias, residual), strict=True)
    ]


def given(tensors):
    return tuple(one for one in tensors if one is not None)


def call_of(activation="gelu", bias=True, residual=True, p=0.4, **options):
    """Ours and the reference's, as functions of the operands that are there."""

    def split(tensors):
        rest = list(tensors)
        return rest.pop(0), rest.pop(0) if bias else None, rest.pop(0) if residual else None

    def ours(*tensors):
        x, b, r = split(tensors)
        return FF.bias_act_dropout(x, b, p, activation, residual=r, rng_state=STATE, **options)

    def theirs(*tensors):
        x, b, r = split(tensors)
        return reference.bias_act_dropout(x, b, p, activation, STATE, residual=r, **options)

    return ours, theirs


def assert_all_close(ours, theirs, **tolerance):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


OPTIONS = [
    {"mode": "classic"},
    {"mode": "alpha"},
    {"mode": "classic", "training": False},
    {"training": False},
    {"shared_dims": (0,)},
    {"shared_dims": (1,), "mode": "alpha"},
    {"noise_shape": (1, None)},
    {"p": 1.0},
    {"p": 0.0},
    {"bias_dim": 0},
]


def operands_for(options):
    x, bias, residual = operands()
    return x, bias.detach()[:3].requires_grad_() if "bias_dim" in options else bias, residual


# ---------------------------------------------------------------- finite differences


@every_activation
def test_gradcheck(activation):
    ours, _ = call_of(activation)
    assert gradcheck(ours, given(operands()), check_forward_ad=True, check_undefined_grad=False)


@every_activation
def test_gradgradcheck(activation):
    ours, _ = call_of(activation)
    assert gradgradcheck(ours, given(operands()), check_fwd_over_rev=True)


@pytest.mark.parametrize("activation", ["identity", "relu", "silu"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradcheck_of_options(activation, options):
    ours, _ = call_of(activation, **options)
    assert gradcheck(ours, operands_for(options), check_forward_ad=True)
    assert gradgradcheck(ours, operands_for(options))


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@needs
def test_gradcheck_of_batched_gradients(activation, bias, residual):
    """vmap over backward, which jacobians are made with."""
    ours, _ = call_of(activation, bias, residual)
    inputs = given(operands(bias, residual))
    assert gradcheck(
        ours,
        inputs,
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
        check_undefined_grad=True,
    )


def test_gradcheck_in_other_layouts():
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(x, bias):
        return FF.bias_act_dropout(x, bias, 0.4, "gelu", bias_dim=1, rng_state=STATE)

    for one in (x, x[:, :, ::2], x.transpose(0, 2)[1:]):
        assert gradcheck(call, (one.detach().requires_grad_(), bias))


# ---------------------------------------------------------------- against the reference


@every_activation
@needs
def test_backward(activation, bias, residual):
    inputs = given(operands(bias, residual, (17, 31)))
    ours, theirs = (call(*inputs) for call in call_of(activation, bias, residual))
    upstream = torch.randn_like(ours)
    assert_all_close([ours], [theirs])
    assert_all_close(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)
    )


@every_activation
@needs
def test_double_backward(activation, bias, residual):
    """The gradient of a function of the gradients, by every input and by the upstream gradient."""
    inputs = given(operands(bias, residual))
    upstream = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn_like(one) for one in inputs]
    results = []
    for call in call_of(activation, bias, residual):
        first = torch.autograd.grad(call(*inputs), inputs, upstream, create_graph=True)
        total = sum((one.sin() * weight).sum() for one, weight in zip(first, weights, strict=True))
        second = torch.autograd.grad(
            total, (*inputs, upstream), create_graph=True, materialize_grads=True
        )
        third = torch.autograd.grad(
            sum(one.pow(2).sum() for one in second), upstream, materialize_grads=True
        )
        results.append((*first, *second, *third))
    assert_all_close(*results)


@every_activation
def test_double_backward_in_fp32(activation):
    """The composition takes over from the kernel: first derivatives agree as far as fp32 does."""
    inputs = given(operands(shape=(16, 16), dtype=torch.float32))
    call, _ = call_of(activation)
    upstream = torch.randn(16, 16)
    kernel = torch.autograd.grad(call(*inputs), inputs, upstream)
    composition = torch.autograd.grad(call(*inputs), inputs, upstream, create_graph=True)
    assert_all_close(composition, kernel, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("activation", ["identity", "relu", "tanh"])
@pytest.mark.parametrize("residual", [True, False])
def test_options(activation, options, residual):
    """Value, first and second derivatives. ReLU reads its output where there is no residual."""
    inputs = operands_for(options)[: 2 + residual]
    upstream = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for call in call_of(activation, residual=residual, **options):
        y = call(*inputs)
        kernel = torch.autograd.grad(y, inputs, upstream.detach(), retain_graph=True)
        first = torch.autograd.grad(y, inputs, upstream, create_graph=True)
        second = torch.autograd.grad(
            sum(one.pow(3).sum() for one in first), (*inputs, upstream), materialize_grads=True
        )
        results.append((y, *kernel, *first, *second))
    assert_all_close(*results)


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_backward_operator_is_differentiable(activation):
    x, bias, _ = operands()
    dy = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def call(dy, x, bias):
        return torch.ops.fused_dropout.bias_act_dropout_backward(
            *(dy, x, bias, STATE),
            *(0.4, None, activation, None, None, -1, "inverted", True, [], None, 0),
            *(False, [5, 1], torch.float64, torch.float64, [True, True]),
        )

    assert gradcheck(call, (dy, x, bias), check_forward_ad=True)


KINKS = torch.tensor([-6.0, -3.0, -0.0, 0.0, 3.0, 6.0, 20.0, -100.0, 100.0], dtype=torch.float64)


@every_activation
@pytest.mark.parametrize("mode", ["kernel", "composition", "forward"])
def test_derivative_at_the_kinks_is_torchs(activation, mode):
    x = KINKS.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(reference.activation(activation, x).sum(), x)

    def call(x):
        return FF.bias_act_dropout(x, None, 1e-10, activation, rng_state=STATE)

    if mode == "forward":
        _, ours = jvp(call, (KINKS,), (torch.ones_like(KINKS),))
    else:
        (ours,) = torch.autograd.grad(call(x).sum(), x, create_graph=mode == "composition")
    torch.testing.assert_close(ours.detach(), wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("path", ["kernel", "composition", "forward"])
@every_activation
def test_what_is_dropped_does_not_leak(activation, path):
    """A NaN or an infinity at a dropped place leaves value and derivatives finite."""
    keep = kept(torch.empty(64), 0.5, STATE)
    x = torch.randn(64, dtype=torch.float64)
    for poison in (torch.nan, torch.inf, -torch.inf):
        bad = torch.where(keep, x, poison).requires_grad_()

        def call(x):
            return FF.bias_act_dropout(x, None, 0.5, activation, rng_state=STATE)

        if path == "forward":
            y, ours = jvp(call, (bad.detach(),), (torch.ones_like(x),))
        else:
            y = call(bad)
            (ours,) = torch.autograd.grad(y.sum(), bad, create_graph=path == "composition")
        assert (y[~keep] == 0).all()
        assert (ours[~keep] == 0).all()
        assert ours[keep].isfinite().all()


# ---------------------------------------------------------------- what backward is asked for


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("wanted", [one for one in itertools.product([0, 1], repeat=3) if any(one)])
def test_only_what_needs_a_gradient(activation, wanted):
    """One backward operator where x or bias needs it, none for the residual alone."""
    inputs = [
        one.detach().requires_grad_(bool(need))
        for one, need in zip(operands(), wanted, strict=True)
    ]
    ours, theirs = call_of(activation)
    asked = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.fused_dropout.bias_act_dropout_backward.default:
                asked.append(list(args[-1]))
            return function(*args, **kwargs or {})

    y = ours(*inputs)
    upstream = torch.randn_like(y)
    with Spy():
        y.backward(upstream)
    assert asked == ([[bool(wanted[0]), bool(wanted[1])]] if any(wanted[:2]) else [])
    needed = [one for one in inputs if one.requires_grad]
    theirs = torch.autograd.grad(theirs(*inputs), needed, upstream)
    assert_all_close([one.grad for one in needed], theirs)
    assert all(one.grad is None for one in inputs if not one.requires_grad)


def test_gradient_of_a_part_of_the_inputs():
    x, bias, residual = operands()
    call, reference_call = call_of("gelu")
    upstream = torch.randn(3, 5, dtype=torch.float64)
    for wanted in ((bias,), (residual,), (residual, x), (x, bias)):
        ours, theirs = (
            torch.autograd.grad(one(x, bias, residual), wanted, upstream)
            for one in (call, reference_call)
        )
        assert_all_close(ours, theirs)


UPSTREAM = {
    "scalar": lambda y: torch.ones((), dtype=y.dtype).expand_as(y),
    "row": lambda y: torch.randn(y.shape[-1], dtype=y.dtype).expand_as(y),
    "column": lambda y: torch.randn(*y.shape[:-1], 1, dtype=y.dtype).expand_as(y),
    "transposed": lambda y: torch.randn(*y.shape[::-1], dtype=y.dtype).permute(2, 1, 0),
    "stepped": lambda y: torch.randn(*y.shape[:-1], 2 * y.shape[-1], dtype=y.dtype)[..., ::2],
    "offset": lambda y: torch.randn(y.numel() + 1, dtype=y.dtype)[1:].view_as(y),
    "flipped": lambda y: torch.randn_like(y).flip(0),
    "zeros": lambda y: torch.zeros_like(y),
}


@pytest.mark.parametrize("layout", UPSTREAM)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_upstream_gradients_of_any_layout(layout, activation, dtype):
    x = torch.randn(4, 3, 7).to(dtype).requires_grad_()
    bias = torch.randn(7).to(dtype).requires_grad_()
    y = FF.bias_act_dropout(x, bias, 0.4, activation, rng_state=STATE)
    upstream = UPSTREAM[layout](y)
    ours = torch.autograd.grad(y, (x, bias), upstream, retain_graph=True)
    same = torch.autograd.grad(y, (x, bias), upstream.contiguous())
    assert_all_close(ours, same, rtol=0, atol=0)
    assert ours[0].stride() == x.stride()
    wanted = torch.autograd.grad(
        reference.bias_act_dropout(x, bias, 0.4, activation, STATE), (x, bias), upstream
    )
    assert_all_close(ours, wanted, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)


def test_backward_twice():
    x, bias, residual = operands()
    y = call_of("gelu")[0](x, bias, residual)
    first = torch.autograd.grad(y.sum(), (x, bias), retain_graph=True)
    assert_all_close(torch.autograd.grad(y.sum(), (x, bias)), first, rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), (x, bias))


def test_no_graph_without_need():
    x, bias, residual = operands()
    call, _ = call_of("gelu")
    with torch.no_grad():
        assert not call(x, bias, residual).requires_grad
    with torch.inference_mode():
        assert not call(x, bias, residual).requires_grad
    assert not call(*(one.detach() for one in (x, bias, residual))).requires_grad
    assert call(x.detach(), bias, residual.detach()).requires_grad


# ---------------------------------------------------------------- what is saved


def saved_by(call):
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = call()
    return y, saved


@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
@pytest.mark.parametrize("wanted", [(1, 1, 1), (0, 1, 0), (0, 0, 1)])
def test_saved_tensors(activation, wanted):
    """The state alone for the identity; else what the call was given; nothing for the residual."""
    x, bias, residual = (
        one.detach().requires_grad_(bool(need))
        for one, need in zip(operands(), wanted, strict=True)
    )
    y, saved = saved_by(lambda: call_of(activation)[0](x, bias, residual))
    shapes = sorted(tuple(one.shape) for one in saved if one is not None)
    if activation == "identity" or wanted == (0, 0, 1):
        assert shapes == [(2,)]
    else:
        assert shapes == [(2,), (3, 5), (5,)]
        assert {one.data_ptr() for one in saved} >= {x.data_ptr(), bias.data_ptr()}
    y.sum().backward()


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_relu_saves_its_output(mode):
    x = torch.randn(8, 8, requires_grad=True)
    y, saved = saved_by(lambda: FF.bias_act_dropout(x, None, 0.5, "relu", mode=mode))
    assert sorted(tuple(one.shape) for one in saved) == [(2,), (8, 8)]
    assert y.data_ptr() in {one.data_ptr() for one in saved}


@pytest.mark.parametrize(
    "activation, argument",
    [("gelu", "x"), ("gelu", "bias"), ("gelu", "state"), ("identity", "state"), ("relu", "y")],
)
def test_saved_tensors_must_not_change(activation, argument):
    x, bias, state = torch.randn(4, 6), torch.randn(6), fixed_state()
    leaf = x.clone().requires_grad_()
    x = leaf * 1
    bias = bias.requires_grad_() * 1
    y = FF.bias_act_dropout(x, bias, 0.5, activation, rng_state=state)
    loss = y.sum()
    with torch.no_grad():
        {"x": x, "bias": bias, "state": state, "y": y}[argument].add_(4)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_not_saved_may_change():
    leaf = torch.randn(4, 6, requires_grad=True)
    x = leaf * 1
    y = FF.dropout(x, 0.5, rng_state=STATE)
    x.mul_(7)
    y.mul_(3)
    y.sum().backward()
    assert torch.equal(leaf.grad, kept(leaf, 0.5, STATE) * 6.0)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_share_no_memory_with_inputs(p, training, recording, bias):
    x, b, residual = operands(bias)
    with torch.set_grad_enabled(recording):
        outputs = [
            FF.bias_dropout_add(x, b, residual, p, training),
            FF.bias_act_dropout(x, b, p, "identity", training),
        ]
    for y in outputs:
        assert y.data_ptr() not in (x.data_ptr(), residual.data_ptr())
        assert y._base is None


# ---------------------------------------------------------------- in place


@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("p", [0.4, 1.0])
@pytest.mark.parametrize("options", [{}, {"shared_dims": (1,)}], ids=str)
def test_inplace_gradient(mode, p, options):
    leaf = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def ours(leaf):
        return FF.dropout(leaf.sin(), p, inplace=True, mode=mode, rng_state=STATE, **options)

    def theirs(leaf):
        return reference.dropout(leaf.sin(), p, STATE, mode=mode, **options)

    torch.testing.assert_close(ours(leaf), theirs(leaf))
    assert gradcheck(ours, leaf, check_forward_ad=True)
    assert gradgradcheck(ours, leaf)
    torch.testing.assert_close(
        hessian(lambda x: ours(x).pow(3).sum())(leaf.detach()),
        hessian(lambda x: theirs(x).pow(3).sum())(leaf.detach()),
    )


def test_inplace_twice():
    leaf = torch.randn(8, 8, requires_grad=True)
    states = [fixed_state(1), fixed_state(2)]
    x = leaf * 1
    for state in states:
        FF.dropout(x, 0.5, inplace=True, rng_state=state)
    x.sum().backward()
    keep = kept(leaf, 0.5, states[0]) & kept(leaf, 0.5, states[1])
    assert torch.equal(leaf.grad, keep * 4.0)


# ---------------------------------------------------------------- forward mode


@every_activation
@needs
def test_dual_numbers(activation, bias, residual):
    inputs = [one.detach() for one in given(operands(bias, residual))]
    tangents = [torch.randn_like(one) for one in inputs]
    results = []
    for call in call_of(activation, bias, residual):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents, strict=True)]
            results.append(forward_ad.unpack_dual(call(*duals)))
        results.append(jvp(call, tuple(inputs), tuple(tangents)))
    for one in results[1:]:
        assert_all_close(results[0], one)


@pytest.mark.parametrize("which", range(3))
def test_tangent_of_one_input(which):
    inputs = [one.detach() for one in operands()]
    tangent = torch.randn_like(inputs[which])
    results = []
    for call in call_of("silu"):
        with forward_ad.dual_level():
            duals = list(inputs)
            duals[which] = forward_ad.make_dual(inputs[which], tangent)
            results.append(forward_ad.unpack_dual(call(*duals)))
    assert_all_close(*results)


def test_forward_mode_draws_as_eager_does():
    x = torch.randn(64)
    state = seed_and_state(3)
    y, tangent = jvp(lambda x: FF.dropout(x, 0.5), (x,), (torch.ones(64),))
    assert torch.equal(y, reference.dropout(x, 0.5, state))
    assert torch.equal(tangent, kept(x, 0.5, state) * 2.0)


@every_activation
def test_jacobians_and_hessian(activation):
    """Forward over forward, reverse over reverse, and mixed."""
    ours, theirs = call_of(activation, residual=False)
    x, bias, _ = (one.detach() for one in operands(shape=(2, 3)))
    for jacobian in (jacfwd, jacrev):
        assert_all_close(
            jacobian(ours, argnums=(0, 1))(x, bias), jacobian(theirs, argnums=(0, 1))(x, bias)
        )

    def loss(call):
        return lambda x: call(x, bias).pow(3).sum()

    wanted = hessian(loss(theirs))(x)
    for outer, inner in itertools.product([jacfwd, jacrev], repeat=2):
        torch.testing.assert_close(outer(inner(loss(ours)))(x), wanted)


# ---------------------------------------------------------------- torch.func


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


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("drop", DROPS)
def test_vmap_randomness_is_torchs(drop, transform, randomness):
    torch.manual_seed(5)
    x = torch.full((6, 6, 6), 2.0)
    ours, theirs = (
        behaviour(lambda one=one: TRANSFORMS[transform](lambda x: one(x, 0.5), randomness)(x))
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


# ---------------------------------------------------------------- activation checkpointing


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = fd.MLP(8, 16, 8, p=0.4)
        self.second = fd.BiasDropoutAdd(8, p=0.4)
        self.third = fd.Dropout(0.3, inplace=True)
        self.fourth = fd.AlphaDropout(0.2)

    def forward(self, x):
        return self.fourth(self.third(self.second(self.first(x), x) * 2))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
def test_checkpointing(reentrant, blocks):
    """Recomputed masks are those of the first pass, and the generator is left where it was."""
    torch.manual_seed(11)
    model = torch.nn.ModuleList(Block() for _ in range(blocks))
    x = torch.randn(16, 8, requires_grad=True)

    def plain(block, x, use_reentrant):
        return block(x)

    results = []
    for run in (plain, checkpoint):
        torch.manual_seed(12)
        y = x
        for block in model:
            y = run(block, y, use_reentrant=reentrant)
        after = torch.get_rng_state()
        x.grad = None
        model.zero_grad()
        y.pow(2).sum().backward()
        assert torch.equal(torch.get_rng_state(), after)
        results.append([y, x.grad, *(one.grad for one in model.parameters())])
    assert_all_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_with_a_state(reentrant):
    x = torch.randn(64, requires_grad=True)

    def call(x):
        return FF.bias_act_dropout(x * 2, None, 0.5, "gelu", rng_state=STATE)

    wanted = torch.autograd.grad(call(x).sum(), x)[0]
    y = checkpoint(call, x, use_reentrant=reentrant, preserve_rng_state=False)
    y.sum().backward()
    assert torch.equal(x.grad, wanted)


# ---------------------------------------------------------------- forward and backward masks


@pytest.mark.parametrize("activation", FF.ACTIVATIONS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_of_backward_is_that_of_forward(activation, p):
    """From the gradient, not from zeros of the output, which activations make too."""
    torch.manual_seed(13)
    x = torch.rand(31, 33, dtype=torch.float64, requires_grad=True)
    state = seed_and_state(14)
    y = FF.bias_act_dropout(x, None, p, activation, residual=torch.ones_like(x))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient != 0, kept(x, p, state))
    assert torch.equal(y != 1, kept(x, p, state))


def test_bias_gradient_counts_kept_elements_only():
    """Of a gradient that is not constant."""
    torch.manual_seed(15)
    x, bias = torch.randn(257, 33), torch.zeros(33, requires_grad=True)
    upstream = torch.randn(257, 33)
    state = seed_and_state(16)
    y = FF.bias_act_dropout(x, bias, 0.5, "identity")
    (gradient,) = torch.autograd.grad(y, bias, upstream)
    wanted = (upstream.double() * 2 * kept(x, 0.5, state)).sum(0)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)
