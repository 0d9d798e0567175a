"""Generated calls of the public functions match the reference and do not change their inputs."""

import pytest
from hypothesis import given

from tests.fuzz.check import check_call
from tests.fuzz.functions import CALLS
from tests.fuzz.settings import fuzz_settings


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    @fuzz_settings(8)
    @given(call=CALLS[name])
    def run(call):
        check_call(call)

    run()
