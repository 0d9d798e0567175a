"""Derivatives of the gated operators, and what is saved for backward."""

import torch

import fused_dropout.functional as FF
from tests.row_operators.calls import P
from tests.row_operators.gradients import *  # noqa: F403


def test_autocast_keeps_the_dtype_of_x():
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            assert FF.bias_glu_dropout(torch.randn(4, 6).to(dtype), None, P).dtype == dtype
