"""Calls from Python for compute-sanitizer: is what torch allocates for kernels large enough?

The kernels themselves are for tests/cuda_emulator/sanitize.cpp. Without
PYTORCH_NO_CUDA_MEMORY_CACHING=1 an overrun lands in memory that the allocator keeps, and is not
seen.
"""

import itertools
import os

import torch

import fused_dropout.functional as FF
from tests.noise.calls import CALLS

DEVICE = os.environ.get("FUSED_DROPOUT_TEST_DEVICE", "cuda")
SHAPES = [(1, 1), (3, 5), (33, 40), (70, 1001), (257, 264), (2, 3, 7, 7)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def calls():
    for shape, dtype, shift in itertools.product(SHAPES, DTYPES, (0, 1)):
        storage = torch.randn(torch.Size(shape).numel() + shift, device=DEVICE).to(dtype)
        x = storage[shift:].view(shape).detach().requires_grad_()
        dim = min(1, len(shape) - 1)
        bias = torch.randn(shape[dim], device=DEVICE, requires_grad=True)
        for activation, shared in (("identity", ()), ("relu", (0,)), ("gelu", ())):
            y = FF.bias_act_dropout(
                x, bias, 0.3, activation, bias_dim=dim, shared_dims=shared, residual=x.detach()
            )
            y.backward(torch.ones_like(y))
        FF.dropout(x.detach(), 0.5, inplace=True, rng_state=torch.tensor([5, 8], device=DEVICE))
        FF.dropout_mask(shape, 0.5, torch.tensor([5, 8], device=DEVICE), shared_dims=(0,))
    for rows, width in ((3, 5), (70, 1001), (257, 264), (5, 5000), (2, 8192)):
        for dtype in DTYPES:
            row_calls(rows, width, dtype)
            noise_calls(rows, width, dtype)
    for shape in ((2, 3, 70), (3, 5, 14, 13), (2, 40, 28, 28), (1, 2, 8, 9, 10)):
        for dtype in DTYPES:
            block_calls(shape, dtype)
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def row_calls(rows, width, dtype):
    def new(*sizes):
        return torch.randn(sizes, device=DEVICE).to(dtype).requires_grad_()

    x = new(rows, 2 * width)
    y = FF.bias_glu_dropout(x, new(2 * width), 0.3)
    y.backward(torch.ones_like(y))
    x, residual = new(rows, width), new(rows, width)
    for prenorm in (False, True):
        results = FF.dropout_add_layer_norm(
            x, residual, new(width), new(width), bias=new(width), p=0.3, activation="gelu",
            layer_scale=new(width), prenorm=prenorm,
        )  # fmt: skip
        results = results if prenorm else (results,)
        torch.autograd.backward(results, [torch.ones_like(one) for one in results])


def noise_calls(rows, width, dtype):
    for shared in ((), (0,)):
        for call in CALLS.values():
            tensors = call.tensors_of((rows, width), dtype, scalar_dtype=torch.float32)
            moved = {key: t.detach().to(DEVICE).requires_grad_() for key, t in tensors.items()}
            y = call(moved, shared_dims=shared)
            y.backward(torch.ones_like(y))


def block_calls(shape, dtype):
    x = torch.randn(shape, device=DEVICE).to(dtype)
    for shared in (False, True):
        for one in (x, x.movedim(1, -1).contiguous().movedim(-1, 1)):
            leaf = one.detach().requires_grad_()
            y = FF.drop_block(leaf, 0.3, shared_channels=shared)
            y.backward(torch.ones_like(y))


if __name__ == "__main__":
    calls()
