"""Results and gradients of the row operators against the reference in fp64.

For both families, which work row by row: tests/norm and tests/gated import these tests.
"""

import pytest
import torch

from tests.helpers import ACTIVATIONS, DTYPES
from tests.row_operators.calls import (
    CALLS,
    activation_of,
    check_values,
    gradients_of,
    ours,
    tensors_of,
    theirs,
    upstream_of,
)

# Widths around the registers, the groups of draws and the chunks of 512; rows alone and many.
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
def test_every_kernel(name, dtype, capability):
    """In rows of less than a register, in many rows, and in rows of several chunks."""
    for shape in ((3, 15), (70, 100), (2, 1025)):
        check_all(name, tensors_of(name, shape, dtype))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape(example, shape, capability):
    for dtype in DTYPES:
        check_all(example, tensors_of(example, shape, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(example, activation, monkeypatch, capability):
    monkeypatch.setitem(CALLS[example], "activation", activation)
    assert activation_of(example) == activation
    for dtype in DTYPES:
        check_all(example, tensors_of(example, (5, 70), dtype))


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
def test_every_option(example, options, capability):
    check_options(example, options)


def test_options(name):
    for options in MODES:
        check_options(name, options)


def check_options(name, options):
    tensors = tensors_of(name, (3, 4, 70), torch.float64)
    results, exact = ours(name, tensors, **options), theirs(name, tensors, **options)
    upstream = upstream_of(results)
    for one, truth in zip(results, exact, strict=True):
        torch.testing.assert_close(one, truth)
    found, expected = (gradients_of(r, tensors, upstream) for r in (results, exact))
    for key in found:
        torch.testing.assert_close(found[key], expected[key], msg=key)


@pytest.mark.parametrize("shape", [(0, 6), (3, 0), (2, 0, 5)], ids=str)
def test_empty(name, shape):
    tensors = tensors_of(name, shape)
    before = torch.get_rng_state()
    results = ours(name, tensors, rng_state=None)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(one.shape == shape for one in results)
    for key, gradient in gradients_of(results, tensors, upstream_of(results)).items():
        assert gradient.shape == tensors[key].shape and not gradient.any()
