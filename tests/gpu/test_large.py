"""Tensors of more than 2^31 and 2^32 elements: addresses and counters, forward and backward.

On a GPU: no index, address or counter is cut to 32 bits. The rehearsal has small tensors.
"""

import pytest
import torch

import fused_dropout.functional as FF
from tests.gpu.on_device import DEVICE, STATE, skip_without_memory
from tests.helpers import forward_mask

SEAM = 2**31 if DEVICE != "cpu" else 2**16


@pytest.mark.parametrize("numel", [SEAM + SEAM // 2**11 + 3, 2 * SEAM + SEAM // 2**11 + 5])
def test_ends_and_seams(numel):
    skip_without_memory(4 * 2 * numel)
    x = torch.ones(numel, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    y = FF.dropout(x, 0.5, rng_state=STATE.to(DEVICE))
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    for first in (0, SEAM - 1000, 2 * SEAM - 1000, numel - 2000):
        if first + 2000 > numel:
            continue
        expected = forward_mask(torch.empty(2000), STATE, 0.5, mask_offset=first)
        for tensor in (y, dx):
            assert torch.equal((tensor[first : first + 2000] != 0).cpu(), expected)
    share = sum(int((part != 0).sum()) for part in y.split(1 << 28)) / numel
    assert abs(share - 0.5) < 5 * 0.5 / numel**0.5


def test_a_matrix_with_a_bias():
    rows, columns = SEAM // 2**10 + 1, 1024 + 8
    skip_without_memory(5 * 2 * rows * columns)
    x = torch.ones(rows, columns, dtype=torch.bfloat16, device=DEVICE, requires_grad=True)
    bias = torch.zeros(columns, device=DEVICE, requires_grad=True)
    y = FF.bias_act_dropout(x, bias, 0.5, "relu", rng_state=STATE.to(DEVICE))
    dx, dbias = torch.autograd.grad(y, (x, bias), torch.ones_like(y))
    expected = forward_mask(torch.empty(3, columns), STATE, 0.5, mask_offset=(rows - 3) * columns)
    for tensor in (y, dx):
        assert torch.equal((tensor[-3:] != 0).cpu(), expected)
    counts = sum((part != 0).sum(0) for part in dx.split(1 << 18))
    assert torch.allclose(dbias, counts * 2.0, rtol=1e-6)
