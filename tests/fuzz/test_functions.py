"""Generated calls of the public functions do not crash, and equal the reference."""

import pytest
from hypothesis import given

from tests.fuzz.check import check_call
from tests.fuzz.functions import CALLS
from tests.fuzz.settings import few


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    @few(8)
    @given(call=CALLS[name])
    def run(call):
        check_call(call)

    run()
