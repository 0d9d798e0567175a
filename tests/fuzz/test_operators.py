"""Operators called with wrong arguments return a result or raise an error; they do not crash."""

import pytest
from hypothesis import given

from tests.fuzz.operators import SCHEMAS, check_operator, operator_calls
from tests.fuzz.settings import fuzz_settings


@pytest.mark.parametrize("operator", sorted(SCHEMAS))
def test_operator(operator):
    @fuzz_settings(8)
    @given(call=operator_calls(operator))
    def run(call):
        check_operator(call)

    run()
