"""The gated operators under torch.compile, torch.export and opcheck."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.row_operators.compile import *  # noqa: F403


def test_a_generator_is_refused():
    x = torch.randn(4, 6)
    compiled = torch.compile(
        lambda x: FF.bias_glu_dropout(x, None, 0.5, generator=torch.default_generator),
        backend="eager",
        fullgraph=True,
    )
    with pytest.raises(Exception, match="rng_state"):
        compiled(x)
