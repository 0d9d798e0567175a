"""A small set of calls for compute-sanitizer: every kind of kernel, tails and odd places."""

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import fused_dropout.functional as FF

SHAPES = [(1, 1), (3, 5), (33, 40), (70, 1001), (257, 264), (2, 3, 7, 7)]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def calls():
    for shape, dtype, shift in itertools.product(SHAPES, DTYPES, (0, 1)):
        storage = torch.randn(torch.Size(shape).numel() + shift, device="cuda").to(dtype)
        x = storage[shift:].view(shape).detach().requires_grad_()
        dim = min(1, len(shape) - 1)
        bias = torch.randn(shape[dim], device="cuda", requires_grad=True)
        for activation, shared in (("identity", ()), ("relu", (0,)), ("gelu", ())):
            y = FF.bias_act_dropout(
                x, bias, 0.3, activation, bias_dim=dim, shared_dims=shared, residual=x.detach()
            )
            y.backward(torch.ones_like(y))
        FF.dropout(x.detach(), 0.5, inplace=True, rng_state=torch.tensor([5, 8], device="cuda"))
        FF.dropout_mask(shape, 0.5, torch.tensor([5, 8], device="cuda"), shared_dims=(0,))
    for rows, width in ((3, 5), (70, 1001), (257, 264), (5, 5000), (2, 8192)):
        for dtype in DTYPES:
            row_calls(rows, width, dtype)
    torch.cuda.synchronize()


def row_calls(rows, width, dtype):
    def new(*sizes):
        return torch.randn(sizes, device="cuda").to(dtype).requires_grad_()

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


if __name__ == "__main__":
    calls()
