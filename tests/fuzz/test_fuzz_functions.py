"""Generated calls of the public functions: no crash, the reference's results, inputs unchanged."""

import pytest
from fuzz_check import check_call
from fuzz_functions import CALLS
from fuzz_settings import few
from hypothesis import given


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    @few(8)
    @given(call=CALLS[name])
    def run(call):
        check_call(call)

    run()
