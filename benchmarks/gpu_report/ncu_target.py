"""The calls that ncu measures: forward and backward once, in a range with the name of the call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch

import fused_dropout.functional as FF

from .ncu import LABEL

_LARGE, _TINY = 1 << 27, 1 << 12  # elements


def calls(device: str, numel: int) -> Iterator[tuple[str, list[torch.Tensor], object]]:
    """Yields a label, the tensors that get gradients, and the call."""

    def new(*shape, dtype=torch.bfloat16):
        return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

    width = 4096 if numel >= _LARGE else 64
    for dtype in (torch.bfloat16, torch.float32):
        x = new(numel // width, width, dtype=dtype)
        yield f"dropout {str(dtype)[6:]}", [x], lambda x=x: FF.dropout(x, 0.1)
    x, bias = new(numel // width, width), new(width)
    yield (
        "bias_gelu bfloat16",
        [x, bias],
        lambda x=x, bias=bias: FF.bias_act_dropout(x, bias, 0.1, "gelu"),
    )
    for width in (1024, 4096) if numel >= _LARGE else (64, 128):
        inputs = [new(numel // width, width), new(numel // width, width), new(width), new(width)]
        yield (
            f"layer_norm_{width} bfloat16",
            inputs,
            lambda inputs=inputs: FF.dropout_add_layer_norm(*inputs, p=0.1, prenorm=True),
        )


def main() -> None:
    """Runs forward and backward of each call."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report.ncu_target")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    for label, inputs, call in calls(options.device, _LARGE if cuda else _TINY):
        # A start/end range, unlike a push/pop range, includes the thread that runs backward.
        mark = torch.cuda.nvtx.range_start(f"{LABEL}{label}") if cuda else None
        y = call()
        y = y if isinstance(y, tuple) else (y,)
        torch.autograd.grad(y, inputs, [torch.ones_like(one) for one in y])
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.nvtx.range_end(mark)
        print(label, flush=True)


if __name__ == "__main__":
    sys.exit(main())
