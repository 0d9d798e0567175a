"""Operators that are called with arguments that do not fit: a result or an error, and no crash."""

import pytest
from fuzz_operators import SCHEMAS, check_operator, operator_calls
from fuzz_settings import few
from hypothesis import given


@pytest.mark.parametrize("operator", sorted(SCHEMAS))
def test_operator(operator):
    @few(8)
    @given(call=operator_calls(operator))
    def run(call):
        check_operator(call)

    run()
