"""The gradients that are summed over rows: in fp32, in fixed order, of the masked gradient."""

import torch

from tests.row_operators.calls import (
    STATE,
)
from tests.row_operators.sums import *  # noqa: F403


def test_only_kept_gradients_are_summed():
    """The bias gradient of ones is the count of what is kept, times the scale."""
    import fused_dropout.functional as FF

    rows, width = 500, 40
    bias = torch.zeros(width, requires_grad=True)
    x = torch.zeros(rows, width)
    _y, h = FF.dropout_add_layer_norm(
        x, None, torch.zeros(width), bias=bias, p=0.25, prenorm=True, rng_state=STATE
    )
    (dbias,) = torch.autograd.grad(h, bias, torch.ones_like(h))
    kept = FF.dropout_mask((rows, width), 0.25, STATE)
    torch.testing.assert_close(dbias, kept.sum(0) / 0.75)
