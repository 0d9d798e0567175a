"""Seeded dropout in Triton: the mask drawn again in backward, and never stored.

After the idea of Triton's tutorial "Low-Memory Dropout": what one writes oneself today.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK = 4096


@triton.jit
def _apply(x, y, numel, keep, seed, block: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = places < numel
    values = tl.load(x + places, mask=inside)
    kept = tl.rand(seed, places) < keep
    tl.store(y + places, tl.where(kept, values / keep, 0.0), mask=inside)


def _run(x, p, seed):
    y = torch.empty_like(x)
    _apply[(triton.cdiv(x.numel(), _BLOCK),)](x, y, x.numel(), 1 - p, seed, block=_BLOCK)
    return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, seed):
        ctx.p, ctx.seed = p, seed
        return _run(x, p, seed)

    @staticmethod
    def backward(ctx, dy):
        return _run(dy.contiguous(), ctx.p, ctx.seed), None, None


def dropout(p, x):
    """``F.dropout(x, p)`` of a contiguous tensor, with a seed from torch's CPU generator."""
    return _Dropout.apply(x, p, int(torch.randint(2**31, ())))
