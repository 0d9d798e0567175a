"""The tests; helpers are imported as ``from tests.helpers import ...``."""

import pytest

# Assertions of helpers say what they compare, as those of test files do.
pytest.register_assert_rewrite(
    "tests.row_operators",
    *(f"tests.{family}.calls" for family in ("drop_block", "noise", "shard")),
)
