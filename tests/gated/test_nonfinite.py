"""What is dropped does not reach results and gradients, even if it is NaN or infinite."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import DTYPES
from tests.row_operators.calls import STATE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dropped_nan_and_infinity_do_not_leak(dtype, capability):
    kept = FF.dropout_mask((4, 50), 0.5, STATE)
    x = torch.randn(4, 50).to(dtype)
    for poison in (torch.nan, torch.inf):
        dirty = torch.where(kept, x, poison)
        both = torch.cat((dirty, dirty), -1).requires_grad_()
        y = FF.bias_glu_dropout(both, None, 0.5, "gelu", rng_state=STATE)
        assert y.isfinite().all() and not y[~kept].any()
        (dx,) = torch.autograd.grad(y, both, torch.ones_like(y))
        assert dx.isfinite().all() and not dx[torch.cat((~kept, ~kept), -1)].any()
