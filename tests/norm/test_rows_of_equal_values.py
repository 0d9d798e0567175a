"""A row of equal values is zero after normalisation, for every width and value."""

import pytest
import torch
from torch.func import grad

import fused_dropout.functional as FF
from tests.helpers import DTYPES

WIDTHS = (1, 2, 3, 7, 64, 100, 513, 1000, 4097, 20000)
VALUES = (1.0, 0.1, -33333.333, 1e-3, 65000.0, 1e-20, 1e20, -3e38)
every_width = pytest.mark.parametrize("width", WIDTHS)


def rows(width, dtype):
    values = [value for value in VALUES if abs(value) <= torch.finfo(dtype).max]
    return torch.tensor(values, dtype=dtype)[:, None].repeat(1, width)


def layer_norm(x, **options):
    return FF.dropout_add_layer_norm(x, None, p=0.0, **options)


@every_width
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero(width, dtype, capability):
    x = rows(width, dtype)
    assert (layer_norm(x) == 0).all()
    y, h = layer_norm(x, prenorm=True)
    assert (y == 0).all() and torch.equal(h, x)


@every_width
def test_the_bias_of_the_normalisation_alone(width):
    x, weight, norm_bias = rows(width, torch.float32), torch.full((width,), 3.0), torch.rand(width)
    y = FF.dropout_add_layer_norm(x, None, weight, norm_bias, p=0.0)
    assert torch.equal(y, norm_bias.expand_as(y))


@every_width
def test_in_the_composition(width):
    """What transforms and higher derivatives are made of."""
    x = rows(width, torch.float32)[:-1]  # a sum of the last is infinite

    def largest(x):
        return layer_norm(x).abs().max()

    assert largest(x) == 0
    assert torch.func.vmap(layer_norm)(x[:, None]).abs().max() == 0
    assert grad(largest)(x).isfinite().all()


@every_width
def test_a_shift_of_all_values_changes_nothing(width):
    """Of integers with a mean of zero, so that the shifted ones and their mean are exact."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randint(-9, 10, (5, width // 2), generator=generator).float()
    x = torch.cat([half, torch.zeros(5, width % 2), -half], 1)
    expected = torch.nn.functional.layer_norm(x.double(), (width,)).float()
    torch.testing.assert_close(layer_norm(x + 2.0**20), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_stays_seen(bad):
    x = torch.ones(2, 100)
    x[0, 17] = bad
    y = layer_norm(x)
    assert y[0].isnan().all()
    assert (y[1] == 0).all()
