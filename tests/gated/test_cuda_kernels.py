"""The CUDA kernels of the gated operators, run on the CPU by tests/cuda_emulator: see
tests/pointwise/test_cuda_kernels.py."""

import pytest
import torch

from fused_dropout import reference
from tests.cuda_emulator.shim import GatedKernels
from tests.helpers import SEED
from tests.row_operators.calls import (
    tensors_of,
    upstream_of,
)
from tests.row_operators.cuda_kernels import *  # noqa: F403
from tests.row_operators.cuda_kernels import OFFSET, kernels

pytestmark = pytest.mark.usefixtures("emulated_kernels")


def test_gradients_that_are_not_wanted():
    tensors = tensors_of("swiglu", (50, 72))
    call = kernels("swiglu", tensors)
    upstream = upstream_of((call.forward(),))
    dx, dbias = call.backward(*upstream)
    assert torch.equal(call.backward(*upstream, need_dbias=False)[0], dx)
    assert torch.equal(call.backward(*upstream, need_dx=False)[1], dbias)


def test_dropped_nans_and_infinities_do_not_leak():
    kept = reference.dropout_mask((64, 64), 0.5, (SEED, OFFSET))
    call = GatedKernels(
        torch.full((64, 128), torch.nan), p=0.5, activation="silu", seed=SEED, offset=OFFSET
    )
    assert torch.equal(call.forward().isnan(), kept)
    dgate, dvalue = call.backward(torch.full((64, 64), torch.inf))[0].chunk(2, -1)
    assert bool((dgate[~kept] == 0).all()) and bool((dvalue[~kept] == 0).all())
