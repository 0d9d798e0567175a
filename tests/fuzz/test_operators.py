"""Operators that are called with arguments that do not fit: a result or an error, and no crash."""

import pytest
from hypothesis import given

from tests.fuzz.operators import SCHEMAS, check_operator, operator_calls
from tests.fuzz.settings import few


@pytest.mark.parametrize("operator", sorted(SCHEMAS))
def test_operator(operator):
    @few(8)
    @given(call=operator_calls(operator))
    def run(call):
        check_operator(call)

    run()
