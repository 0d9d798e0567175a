"""The drop-in layers against their counterparts in torch.nn, and `FF.dropout` against torch's."""

import copy
import inspect
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from module_helpers import drawing_nothing, fixed_state, kept, outcome, seed_and_state
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference

# The layers: a shape that each takes, and the dimensions of it that share one decision.
LAYERS = {
    "Dropout": ((3, 5), ()),
    "Dropout1d": ((3, 4, 5), (2,)),
    "Dropout2d": ((2, 3, 4, 5), (2, 3)),
    "Dropout3d": ((2, 3, 2, 3, 4), (2, 3, 4)),
    "AlphaDropout": ((3, 5), ()),
    "FeatureAlphaDropout": ((2, 3, 4, 5), (2, 3)),
}
WITH_MODE = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
every_layer = pytest.mark.parametrize("name", LAYERS)
every_mode_layer = pytest.mark.parametrize("name", WITH_MODE)


def example(name, *, dtype=torch.float32, **options):
    return torch.randn(LAYERS[name][0], **options).to(dtype)


def layers(name, *args, **options):
    """Ours and torch's."""
    return getattr(fd, name)(*args, **options), getattr(nn, name)(*args, **options)


def mode_of(name):
    return "alpha" if "Alpha" in name else "inverted"


def expected(name, x, p, state):
    return reference.dropout(x, p, state, shared_dims=LAYERS[name][1], mode=mode_of(name))


# ---------------------------------------------------------------- construction


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


# ---------------------------------------------------------------- copies


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


# ---------------------------------------------------------------- p


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


# ---------------------------------------------------------------- dimensions


@every_layer
@pytest.mark.parametrize("p", [0.5, 0.0, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("ndim", range(7))
def test_dimensions(name, ndim, training, p):
    """Errors by type, and by text up to what ours adds; warnings; the output's shape.

    The warning for a 3-D input of Dropout2d ends with what torch plans to change, which ours does
    not, so that its first sentences are compared.
    """
    x = torch.randn([2] * ndim)
    (error, result, warned), (their_error, their_result, they_warned) = (
        outcome(lambda layer=layer: layer.train(training)(x)) for layer in layers(name, p)
    )
    assert error == their_error, result
    assert [category for category, _ in warned] == [category for category, _ in they_warned]
    for (_, text), (_, their_text) in zip(warned, they_warned, strict=True):
        first, rest = text.partition("channel dim.")[::2] if "3D input" in text else (text, "")
        assert their_text.startswith(first)
        assert bool(rest) == ("3D input" in text)
    if error:
        assert result.startswith(their_result)
    else:
        assert result.shape == their_result.shape
        assert (result is x) == (p == 0 or not training)


@pytest.mark.parametrize(
    "name, ndim",
    [("Dropout2d", 2), ("Dropout2d", 3), ("Dropout2d", 5), ("Dropout3d", 2), ("Dropout3d", 4)],
)
@pytest.mark.filterwarnings("ignore:dropout")
def test_which_dimensions_are_channels_of_unusual_inputs(name, ndim):
    """Recovered from the output: torch's shares what ours shares."""
    x = torch.ones([4] * ndim)
    torch.manual_seed(3)
    for layer in layers(name):
        y = torch.stack([layer(x) for _ in range(50)])
        shared = [dim for dim in range(1, ndim + 1) if (y == y.narrow(dim, 0, 1)).all()]
        first = 2 if name == "Dropout2d" else 1  # the first to share, without the stack's
        assert shared == list(range(first + 1, ndim + 1)), layer


@pytest.mark.parametrize(
    "name, shape",
    [("Dropout", (7,)), ("Dropout1d", (5, 4)), ("Dropout3d", (5, 2, 3, 4)), ("AlphaDropout", (7,))],
)
def test_unbatched_equals_batch_of_one(name, shape):
    layer, x = getattr(fd, name)(), torch.randn(shape)
    torch.manual_seed(4)
    one = layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x[None])[0], one)
    assert (one != x / 0.5).any(), "nothing was dropped"


# ---------------------------------------------------------------- when nothing is drawn


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


# ---------------------------------------------------------------- in place


@pytest.mark.parametrize("name", WITH_MODE)
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_inplace_values(name, p):
    x = example(name)
    before, version = x.clone(), x._version
    state = seed_and_state(6)
    y = getattr(fd, name)(p, inplace=True)(x)
    assert y is x
    assert torch.equal(x, expected(name, before, p, state))
    assert x._version > version


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_layers_ignore_inplace(name):
    for layer in layers(name, 0.5, True):
        x = example(name, requires_grad=True)
        before = x.detach().clone()
        y = layer(x)
        assert y is not x
        assert y.data_ptr() != x.data_ptr()
        assert torch.equal(x, before)


def test_inplace_eval_in_classic_mode():
    x = torch.randn(5)
    before, version = x.clone(), x._version
    with drawing_nothing():
        assert fd.Dropout(0.25, inplace=True, mode="classic").eval()(x) is x
    assert torch.equal(x, before * 0.75)
    assert x._version > version


def leaf():
    return torch.randn(3, 4, requires_grad=True)


def view_of_leaf():
    return leaf()[1:]


def unbound():
    return (leaf() * 1).unbind()[0]


def no_grad_view():
    with torch.no_grad():
        return (leaf() * 1)[1:]


def custom_view():
    class View(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    return View.apply(leaf() * 1)


@pytest.mark.parametrize("make", [leaf, view_of_leaf, unbound, no_grad_view, custom_view])
@pytest.mark.parametrize("p", [0.5, 1.0, 0.0])
@pytest.mark.parametrize("training", [True, False])
def test_inplace_errors_of_autograd(make, p, training):
    ours, theirs = (
        outcome(lambda layer=layer: layer.train(training)(make()))
        for layer in layers("Dropout", p, True)
    )
    assert ours[0] == theirs[0]
    if ours[0]:
        # Behind the first sentence torch names its own kernel.
        assert ours[1].split(". ")[0] == theirs[1].split(". ")[0]


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_inplace_error_draws_and_changes_nothing(p):
    x = leaf()
    before = x.detach().clone()
    with drawing_nothing(), pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        fd.Dropout(p, inplace=True)(x)
    assert torch.equal(x, before)
    assert x._version == 0


def test_inplace_on_a_leaf_without_recording():
    x = leaf()
    before, state = x.detach().clone(), seed_and_state(7)
    with torch.no_grad():
        assert FF.dropout(x, 0.5, inplace=True) is x
    assert torch.equal(x, expected("Dropout", before, 0.5, state))
    assert x._version == 1


def test_inplace_in_inference_mode():
    """The version counts there too, so that autograd sees the change later."""
    x = torch.ones(64)
    saved = torch.ones(64, requires_grad=True) * x
    state = seed_and_state(7)
    with torch.inference_mode():
        assert FF.dropout(x, 0.5, inplace=True) is x
    assert torch.equal(x, expected("Dropout", torch.ones(64), 0.5, state))
    assert x._version == 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()


def test_inplace_on_an_inference_tensor():
    with torch.inference_mode():
        x = torch.ones(64)
        state = seed_and_state(7)
        assert FF.dropout(x, 0.5, inplace=True) is x
        assert torch.equal(x, expected("Dropout", torch.ones(64), 0.5, state))
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        FF.dropout(x, 0.5, inplace=True)


def test_inplace_version_is_seen_by_autograd():
    y = torch.randn(4, requires_grad=True).exp()
    FF.dropout(y, 0.5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(
    "view",
    [lambda x: x, lambda x: x[:, 1:], lambda x: x[1:], lambda x: x.t(), lambda x: x[::2, ::3]],
    ids=["whole", "columns", "rows", "transposed", "stepped"],
)
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_inplace_on_views(view, p):
    """The values, and the gradient of everything that shares memory with the view."""
    x = torch.randn(5, 7, requires_grad=True)
    weight = torch.randn(5, 7)
    state = fixed_state()

    base = x * 2
    part = view(base)
    assert FF.dropout(part, p, inplace=True, rng_state=state) is part
    (gradient,) = torch.autograd.grad((base * weight).sum(), x)

    with torch.no_grad():
        wanted = x * 2
        dropped = view(torch.ones(5, 7))
        dropped.copy_(reference.dropout(torch.ones_like(view(wanted)), p, state))
        factor = torch.ones(5, 7)
        view(factor).copy_(reference.dropout(torch.ones_like(view(x)), p, state))
    assert torch.equal(base, wanted * factor)
    assert torch.equal(gradient, weight * factor * 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_inplace_equals_out_of_place(order):
    x = torch.randn(3, 4, 5).permute(order)
    for part in (x, x[1:], x[:, 1:], x[:, :, ::2]):
        y = FF.dropout(part, 0.5, rng_state=fixed_state())
        inplace = part.clone(memory_format=torch.preserve_format)
        assert torch.equal(FF.dropout(inplace, 0.5, inplace=True, rng_state=fixed_state()), y)


# ---------------------------------------------------------------- layout

ORDERS = list(itertools.permutations(range(4)))
STRIDED = ("Dropout", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout")


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("slices", list(itertools.product([0, 1], [0, 1])))
def test_strides(name, order, slices):
    """As torch's `_test_dropout_stride_mean_preserve`, with the gradient and the values."""
    inverse = [order.index(dim) for dim in range(4)]
    whole = torch.randn(2, 3, 4, 5).permute(order).contiguous().permute(inverse)
    x = whole[slices[0] :, slices[1] :].requires_grad_()
    layer = getattr(fd, name)(0.4)
    state = seed_and_state(8)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y, x, torch.randn_like(y).expand_as(y))

    for result in (y, gradient):
        assert result.permute(order).is_contiguous()
        assert result.stride() == torch.empty_like(x).stride()
    torch.testing.assert_close(y, expected(name, x, 0.4, state))

    layer.p = 1e-10
    y = layer(x)
    assert torch.equal(y, x)
    assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(6, 8)[::2, ::3],
        torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)[:, :, ::2, 1:],
        torch.randn(5, 1).expand(5, 4),
        torch.randn(9).as_strided((4, 3), (2, 1)),
        torch.randn(8).flip(0)[1:],
        torch.randn(3, 1, 4).transpose(0, 1),
    ],
    ids=["stepped", "channels-last", "expanded", "overlapping", "offset", "size-one"],
)
def test_views_give_dense_outputs(x):
    y = FF.dropout(x, 0.4, rng_state=fixed_state())
    assert y.stride() == torch.empty_like(x).stride()
    assert torch.equal(y, reference.dropout(x, 0.4, fixed_state()))


@pytest.mark.parametrize("p", [1e-10, 7e-6, 5e-324])
@pytest.mark.parametrize("mode", FF.MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tiny_p_changes_no_bit(p, mode, dtype):
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.cat([torch.randn(100), torch.tensor([-0.0, 0.0, tiny / 4, -tiny, math.inf])])
    x = x.to(dtype)
    y = FF.dropout(x, p, mode=mode)
    assert y is not x
    assert torch.equal(y.view(torch.uint8), x.view(torch.uint8))


@every_layer
def test_whole_channels_are_dropped(name):
    shape, shared = LAYERS[name]
    x = torch.ones(8, 16, *shape[2:])
    torch.manual_seed(9)
    y = getattr(fd, name)(0.5)(x)
    for dim in range(x.dim()):
        assert (y == y.narrow(dim, 0, 1)).all() == (dim in shared)


# ---------------------------------------------------------------- dtypes


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_floating_dtypes(name, dtype):
    x = example(name, dtype=dtype)
    state = seed_and_state(10)
    y = getattr(fd, name)(0.25)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected(name, x, 0.25, state))


NO_FLOAT = [torch.int64, torch.uint8, torch.bool]
NOT_SUPPORTED = [torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2]


@every_layer
@pytest.mark.parametrize("dtype", NO_FLOAT + NOT_SUPPORTED)
def test_other_dtypes_are_errors_in_training(name, dtype):
    x = torch.ones(LAYERS[name][0]).to(dtype)
    for layer in layers(name):
        with pytest.raises(RuntimeError):
            layer(x)
    with drawing_nothing(), pytest.raises(RuntimeError, match="dropout: x has dtype"):
        getattr(fd, name)()(x)


@every_layer
@pytest.mark.parametrize("dtype", NO_FLOAT + NOT_SUPPORTED)
def test_other_dtypes_pass_through_evaluation(name, dtype):
    x = torch.ones(LAYERS[name][0]).to(dtype)
    for layer in layers(name):
        assert layer.eval()(x) is x


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_layer
def test_autocast_keeps_the_dtype(name, dtype, autocast):
    x = example(name, dtype=dtype)
    ours, theirs = layers(name)
    with torch.autocast("cpu", dtype=autocast):
        assert ours(x).dtype == theirs(x).dtype == dtype


# ---------------------------------------------------------------- classic mode and moments


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


# ---------------------------------------------------------------- generators


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
    """One stream of random numbers: ours take their place among torch's."""
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


# ---------------------------------------------------------------- subclasses and modes


class Subclass(torch.Tensor):
    pass


@pytest.mark.parametrize("inplace", [False, True])
def test_tensor_subclass(inplace):
    """Kept, as torch keeps it, under the mask of a plain tensor."""
    x = torch.randn(4, 6)
    torch.manual_seed(23)
    wanted = FF.dropout(x)
    torch.manual_seed(23)
    y = FF.dropout(x.clone().as_subclass(Subclass), inplace=inplace)
    assert type(y) is type(F.dropout(x.as_subclass(Subclass))) is Subclass
    assert torch.equal(y.as_subclass(torch.Tensor), wanted)


def test_torch_function_mode_sees_the_operators():
    seen = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = torch.randn(4, 6)
    torch.manual_seed(24)
    wanted = FF.bias_act_dropout(x)
    torch.manual_seed(24)
    with Mode():
        assert torch.equal(FF.bias_act_dropout(x), wanted)
    assert any("fused_dropout.bias_act_dropout" in name for name in seen)


def test_dispatch_mode_sees_the_operators():
    """Eager calls do not bypass the dispatcher."""
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.name())
            return function(*args, **(kwargs or {}))

    with Mode():
        FF.dropout(torch.randn(4, 6))
        FF.dropout(torch.randn(4, 6), inplace=True)
    operators = [name.split("::")[1] for name in seen if name.startswith("fused_dropout::")]
    assert operators == ["draw_rng_state", "bias_act_dropout", "draw_rng_state", "dropout_"]


def test_default_device():
    x = torch.randn(4, 6)
    torch.manual_seed(25)
    wanted = FF.dropout(x)
    torch.manual_seed(25)
    with torch.device("meta"):
        assert torch.equal(FF.dropout(x), wanted)
