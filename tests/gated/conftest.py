"""Runs the tests of tests/row_operators with the gated calls."""

import pytest

from tests.row_operators.calls import GATED_CALLS


@pytest.fixture(params=GATED_CALLS)
def name(request):
    return request.param


@pytest.fixture(params=["swiglu"])
def example(request):
    return request.param


@pytest.fixture(params=["bias_glu_dropout"])
def function_name(request):
    return request.param
