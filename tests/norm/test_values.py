"""Results and gradients of the row operators against the reference in fp64."""

import itertools

import pytest
import torch

from tests.helpers import ACTIVATIONS, DTYPES, in_order
from tests.row_calls import (
    CALLS,
    activation_of,
    check_values,
    every_call,
    gradients_of,
    in_dtype,
    is_norm,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

# Widths around the registers, the groups of draws and the blocks of 512; rows alone and many.
SHAPES = [
    (1, 1),
    (5, 1),
    (3, 2),
    (2, 3, 7),
    (4, 8),
    (3, 15),
    (2, 2, 31),
    (7, 33),
    (70, 100),
    (3, 511),
    (2, 513),
    (3, 768),
    (2, 1025),
    (1, 8191),
    (2, 16384),
]


def check_all(name, tensors, **options):
    results = ours(name, tensors, **options)
    gradients = gradients_of(results, tensors, upstream_of(results))
    check_values(name, tensors, results, gradients, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_call
def test_values(name, shape, dtype, capability):
    check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_one(dtype, capability):
    """LayerNorm of one number is the bias, and passes no gradient on."""
    tensors = tensors_of("layer_norm", (5, 1), dtype)
    (y,) = ours("layer_norm", tensors)
    assert torch.equal(y, tensors["norm_bias"].expand(5, 1))
    gradients = gradients_of((y,), tensors, [torch.ones_like(y)])
    assert not gradients["x"].any() and not gradients["residual"].any()
    assert torch.equal(gradients["norm_bias"], torch.full((1,), 5.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(6, 9), (3, 768), (70, 100)], ids=str)
@pytest.mark.parametrize("name", [name for name in CALLS if is_norm(name)])
def test_wide_stream(name, shape, dtype, capability):
    """A residual in fp32 stays fp32, with a branch in 16 bits."""
    tensors = tensors_of(name, shape, dtype, stream=torch.float32)
    results = ours(name, tensors)
    expected = (dtype, torch.float32) if CALLS[name]["prenorm"] else (torch.float32,)
    assert tuple(one.dtype for one in results) == expected
    check_all(name, tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["swiglu", "layer_norm_prenorm_full", "rms_norm_full"])
def test_every_activation(name, activation, dtype, monkeypatch):
    monkeypatch.setitem(CALLS[name], "activation", activation)
    assert activation_of(name) == activation
    check_all(name, tensors_of(name, (5, 70), dtype))


PAIRS = [
    (torch.float32, torch.float64),
    (torch.float16, torch.float64),
    (torch.float16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
    (torch.float64, torch.float32),
]


@pytest.mark.parametrize("dtype, stream", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_prenorm_full", "rms_norm_prenorm"])
def test_mixed_dtypes(name, dtype, stream):
    tensors = tensors_of(name, (4, 40), dtype, stream=stream)
    results = ours(name, tensors)
    exact = theirs(name, in_dtype(tensors, torch.float64))
    wide = torch.promote_types(dtype, stream)
    assert tuple(r.dtype for r in results) == ((dtype, wide) if len(results) == 2 else (wide,))
    gradients = gradients_of(results, tensors, upstream_of(results))
    for key, gradient in gradients.items():
        assert gradient.dtype == tensors[key].dtype
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth.to(one.dtype), rtol=0.01, atol=0.01)


MODES = [
    {"mode": "classic"},
    {"mode": "alpha"},
    {"mode": "classic", "training": False},
    {"training": False},
    {"mode": "classic", "training": False, "p": 1.0},
    {"p": 0.0},
    {"p": 1.0},
    {"p": 0.999999},
    {"shared_dims": (0,)},
    {"shared_dims": (-1,)},
    {"shared_dims": (0, 1), "mode": "alpha"},
]


@pytest.mark.parametrize("options", MODES, ids=str)
@every_call
def test_options(name, options, capability):
    tensors = tensors_of(name, (3, 4, 70), torch.float64)
    results, exact = ours(name, tensors, **options), theirs(name, tensors, **options)
    upstream = upstream_of(results)
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth)
    found, expected = (gradients_of(r, tensors, upstream) for r in (results, exact))
    for key in found:
        torch.testing.assert_close(found[key], expected[key], msg=key)


@pytest.mark.parametrize("missing", ["residual", "weight", "norm_bias", "bias", "layer_scale"])
@pytest.mark.parametrize("name", ["layer_norm_full", "layer_norm_prenorm_full"])
def test_arguments_that_are_not_given(name, missing):
    tensors = tensors_of(name, (3, 50), torch.float64)
    tensors[missing] = None
    given = {key: value for key, value in tensors.items() if value is not None}
    results, exact = ours(name, tensors), theirs(name, {"residual": None, **given})
    upstream = upstream_of(results)
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth)
    found, expected = (gradients_of(r, given, upstream) for r in (results, exact))
    for key in found:
        torch.testing.assert_close(found[key], expected[key], msg=key)


@every_call
@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (2, 0, 5)], ids=str)
def test_empty(name, shape):
    tensors = tensors_of(name, shape)
    before = torch.get_rng_state()
    results = ours(name, tensors, rng_state=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(one.shape == shape for one in results)
    for key, gradient in gradients_of(results, tensors, upstream_of(results)).items():
        assert gradient.shape == tensors[key].shape and not gradient.any()


@pytest.mark.parametrize("name", [name for name in CALLS if not is_norm(name)])
@pytest.mark.parametrize("width", [1, 2])
def test_gradients_in_every_order_of_the_dimensions(name, width, capability):
    """A gated unit of one element is a row; the two that it is made of need not be."""
    for shape in ((3, width), (3, 2, width), (3, 2, 4, width)):
        for order in itertools.permutations(range(len(shape))):
            tensors = tensors_of(name, shape)
            x = tensors["x"].detach()
            tensors["x"] = in_order(x.shape, order).copy_(x).requires_grad_()
            results, expected = ours(name, tensors), theirs(name, tensors)
            upstream = upstream_of(results)
            found = gradients_of(results, tensors, upstream)
            for key, gradient in gradients_of(expected, tensors, upstream).items():
                torch.testing.assert_close(found[key], gradient, msg=f"{key} {shape} {order}")


def test_glu_is_torchs():
    x = torch.randn(4, 12)
    y = ours("glu", {"x": x}, p=0.0)[0]
    torch.testing.assert_close(y, torch.nn.functional.glu(x))
