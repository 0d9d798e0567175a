"""Operators called with arguments that do not fit return a result or raise; none crashes."""

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
