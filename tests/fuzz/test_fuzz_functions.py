"""Generated calls of the public functions match the reference and do not change their inputs."""

import pytest
from fuzz_check import check_call
from fuzz_functions import CALLS
from fuzz_settings import fuzz_settings
from hypothesis import given


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    @fuzz_settings(8)
    @given(call=CALLS[name])
    def run(call):
        check_call(call)

    run()
