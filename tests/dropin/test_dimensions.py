"""Dimensions with a shared outcome, memory layouts and dtypes."""

import itertools
import math

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.dropin.layers import LAYERS, every_layer, example, expected, layers
from tests.module_helpers import drawing_nothing, fixed_state, outcome, seed_and_state


@every_layer
@pytest.mark.parametrize("ndim", range(7))
def test_dimensions(name, ndim):
    """Errors by type, and by text up to what ours adds; warnings; the output's shape.

    The warning for a 3-D input of Dropout2d ends with what torch plans to change, which ours does
    not, so that its first sentences are compared.
    """
    for training, p in itertools.product((True, False), (0.5, 0.0, 1.0)):
        check_dimensions(name, ndim, training, p)


def check_dimensions(name, ndim, training, p):
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


ORDERS = list(itertools.permutations(range(4)))
STRIDED = ("Dropout", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout")


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_strides(name, order):
    """As torch's `_test_dropout_stride_mean_preserve`, with the gradient and the values."""
    for slices in itertools.product([0, 1], [0, 1]):
        check_strides(name, order, slices)


def check_strides(name, order, slices):
    inverse = [order.index(dim) for dim in range(4)]
    full = torch.randn(2, 3, 4, 5).permute(order).contiguous().permute(inverse)
    x = full[slices[0] :, slices[1] :].requires_grad_()
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
