"""Seeded dropout in Triton: backward draws the mask again, and it is never stored.

These are kernels that a user would write today, after Triton's tutorial "Low-Memory Dropout". One
Philox call makes four numbers. The kernel of the tutorial makes one call for each element and
discards three numbers. The other kernel uses all four for adjacent elements. Its threads access 16
bytes at a time and exchange no data.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

_BLOCK = 4096  # 32 elements for each thread of 4 warps


@triton.jit
def _apply(x, y, numel, keep, seed, block: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    in_bounds = offsets < numel
    values = tl.load(x + offsets, mask=in_bounds)
    kept = tl.rand(seed, offsets) < keep
    tl.store(y + offsets, tl.where(kept, values / keep, 0.0), mask=in_bounds)


@triton.jit
def _apply_to_four(x, y, numel, threshold, scale, seed, block: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    offsets = program * block + tl.arange(0, block)
    in_bounds = offsets < numel
    values = tl.load(x + offsets, mask=in_bounds)
    a, b, c, d = tl.randint4x(seed, program * (block // 4) + tl.arange(0, block // 4))
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (block,))  # a, b, c, d of each call
    kept = words.to(tl.uint32, bitcast=True) < threshold.to(tl.uint32)
    tl.store(y + offsets, tl.where(kept, values.to(tl.float32) * scale, 0.0), mask=in_bounds)


def _one_by_one(x, p, seed):
    y = torch.empty_like(x)
    programs = (triton.cdiv(x.numel(), _BLOCK),)
    _apply[programs](x, y, x.numel(), 1 - p, seed, block=_BLOCK)
    return y


def _four_at_a_time(x, p, seed):
    y = torch.empty_like(x)
    programs = (triton.cdiv(x.numel(), _BLOCK),)
    threshold, scale = round((1 - p) * 2**32), 1 / (1 - p)
    _apply_to_four[programs](x, y, x.numel(), threshold, scale, seed, block=_BLOCK, num_warps=4)
    return y


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p, seed, run):
        ctx.p, ctx.seed, ctx.run = p, seed, run
        return run(x, p, seed)

    @staticmethod
    def backward(ctx, dy):
        return ctx.run(dy.contiguous(), ctx.p, ctx.seed), None, None, None


def _function(run: Callable) -> Callable:
    """Returns dropout of a contiguous tensor, with a seed from torch's CPU generator."""
    return lambda p, x: _Dropout.apply(x, p, int(torch.randint(2**31, ())), run)


FUNCTIONS = {"triton": _function(_one_by_one), "triton4": _function(_four_at_a_time)}
