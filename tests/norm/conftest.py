"""Runs the tests of tests/row_operators with the normalised calls."""

import pytest

from tests.row_operators.calls import NORM_CALLS


@pytest.fixture(params=NORM_CALLS)
def name(request):
    return request.param


@pytest.fixture(params=["layer_norm_prenorm_full", "rms_norm"])
def example(request):
    return request.param


@pytest.fixture(params=["dropout_add_layer_norm", "dropout_add_rms_norm"])
def function_name(request):
    return request.param
