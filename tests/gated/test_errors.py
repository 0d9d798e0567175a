"""Bad input of the gated operators: what the errors say; nothing is drawn."""

import pytest
import torch

from tests.row_operators.errors import *  # noqa: F403
from tests.row_operators.errors import X, check


@pytest.mark.parametrize("width", [1, 7, 101])
def test_an_odd_last_dimension(width):
    check("bias_glu_dropout", RuntimeError, ["x has", width, "even"], x=torch.randn(3, width))


def test_the_operator_needs_a_state():
    options = (0.5, None, "identity", None, None, "inverted", True, [], None, 0)
    with pytest.raises(ValueError, match="rng_state is None"):
        torch.ops.fused_dropout.bias_glu_dropout(X, None, None, True, *options)
