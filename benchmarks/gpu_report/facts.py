"""The first step: describes the machine and runs every kind of kernel once.

Each kind of call runs forward and backward with a fixed state, and its results are compared with
`fused_dropout.reference` on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference

from ..environment import describe
from . import results

P = 0.3
SEED = (0x0F1E2D3C4B5A6978, 8)
ROWS, WIDTH = 37, 264


def _same_mask(ours: torch.Tensor, kept: torch.Tensor, what: str) -> None:
    wrong = int(((ours != 0).cpu() != kept).sum())
    assert wrong == 0, f"{what}: {wrong} of {kept.numel()} decisions differ from the reference"


def _close(ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    difference = float((ours.detach().cpu().float() - theirs.detach().float()).abs().max())
    # The bound is for the rounding of both results in bf16, and for the formulas' errors in fp32.
    bound = 2e-2 if ours.dtype == torch.bfloat16 else 1e-4
    bound *= max(float(theirs.detach().float().abs().max()), 1.0)
    assert difference <= bound, f"{what} differs by {difference:.3g}, more than {bound:.3g}"


class Check:
    """Inputs on the device and on the CPU, of one dtype."""

    def __init__(self, device: str, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.state = torch.tensor(SEED, device=device)

    def compare(self, ours: Callable, theirs: Callable, **shapes: tuple[int, ...]) -> None:
        """Compares `ours(state, **tensors)` with `theirs(SEED, **tensors)`, and all gradients."""
        generator = torch.Generator().manual_seed(0)
        here = {
            name: torch.randn(shape, generator=generator).to(self.dtype).requires_grad_()
            for name, shape in shapes.items()
        }
        there = {name: one.detach().to(self.device).requires_grad_() for name, one in here.items()}
        y, expected = ours(self.state, **there), theirs(SEED, **here)
        y, expected = (one if isinstance(one, tuple) else (one,) for one in (y, expected))
        for i, (one, other) in enumerate(zip(y, expected, strict=True)):
            _close(one, other, f"result {i}")
        torch.autograd.backward(y, [torch.ones_like(one) for one in y])
        torch.autograd.backward(expected, [torch.ones_like(one) for one in expected])
        for name, one in there.items():
            if here[name].grad is not None:
                _close(one.grad, here[name].grad, f"gradient by {name}")

    def ones(self, *shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=self.dtype, device=self.device, requires_grad=True)

    def masks(self, call: Callable, x: torch.Tensor, kept: torch.Tensor) -> None:
        """Checks that `call` of ones, and its gradient, are zero where `kept` is False."""
        y = call(x)
        _same_mask(y, kept, "forward")
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        _same_mask(dx, kept, "backward")


def checks(device: str, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields the name and the function of each check. The function raises an error if it fails."""
    check = Check(device, dtype)
    shape = (ROWS, WIDTH)
    kept = reference.dropout_mask(shape, P, SEED)

    def mask():
        ours = FF.dropout_mask(shape, P, check.state)
        assert torch.equal(ours.cpu(), kept), "dropout_mask differs from the reference's"

    def pointwise():
        check.masks(lambda x: FF.dropout(x, P, rng_state=check.state), check.ones(*shape), kept)
        check.compare(
            lambda s, x, bias, r: FF.bias_act_dropout(x, bias, P, "gelu", residual=r, rng_state=s),
            lambda s, x, bias, r: reference.bias_act_dropout(x, bias, P, "gelu", s, residual=r),
            x=shape,
            bias=(WIDTH,),
            r=shape,
        )

    def gated():
        check.compare(
            lambda s, x, bias: FF.bias_glu_dropout(x, bias, P, "silu", rng_state=s),
            lambda s, x, bias: reference.bias_glu_dropout(x, bias, P, "silu", s),
            x=(ROWS, 2 * WIDTH),
            bias=(2 * WIDTH,),
        )

    def layer_norm():
        check.compare(
            lambda s, x, r, w, b: FF.dropout_add_layer_norm(
                x, r, w, b, p=P, prenorm=True, rng_state=s
            ),
            lambda s, x, r, w, b: reference.dropout_add_norm(x, r, w, b, P, s, prenorm=True),
            x=shape,
            r=shape,
            w=(WIDTH,),
            b=(WIDTH,),
        )

    def rms_norm():
        check.compare(
            lambda s, x, r, w: FF.dropout_add_rms_norm(x, r, w, p=P, eps=1e-5, rng_state=s),
            lambda s, x, r, w: reference.dropout_add_norm(
                x, r, w, None, P, s, norm="rms_norm", eps=1e-5
            ),
            x=shape,
            r=shape,
            w=(WIDTH,),
        )

    def drop_block():
        x = check.ones(2, 3, 14, 13)
        blocks = reference.drop_block_mask(torch.ones(x.shape), P, 5, SEED)
        check.masks(lambda x: FF.drop_block(x, P, 5, rng_state=check.state), x, blocks)

    def gaussian():
        check.compare(
            lambda s, x: FF.gaussian_dropout(x, P, rng_state=s),
            lambda s, x: reference.gaussian_dropout(x, P, s),
            x=shape,
        )

    def concrete():
        check.compare(
            lambda s, x, logit: FF.concrete_dropout(x, logit, 0.5, rng_state=s),
            lambda s, x, logit: reference.concrete_dropout(x, logit, 0.5, s),
            x=shape,
            logit=(),
        )

    def standout():
        x, z = check.ones(*shape), torch.linspace(-3, 3, ROWS * WIDTH).view(shape).to(dtype)
        threshold = reference.standout_threshold(z)
        # Where the threshold is close to half an integer, kernels may round the other way.
        sure = ((threshold - threshold.floor()) - 0.5).abs() > 0.01
        decided = reference.standout(torch.ones(shape), z, 1.0, 0.0, SEED) != 0
        y = FF.standout(x, z.to(device), rng_state=check.state)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        for one in (y, dx):
            wrong = int((((one != 0).cpu() != decided) & sure).sum())
            assert wrong == 0, f"{wrong} decisions differ from the reference"

    for function in (
        mask, pointwise, gated, layer_norm, rms_norm, drop_block, gaussian, concrete, standout,
    ):  # fmt: skip
        yield f"{function.__name__} {str(dtype).removeprefix('torch.')}", function


def _describe(device: str) -> dict:
    if device == "cuda":
        _print_smi()
    facts = describe("benchmarks.gpu_report", device)
    facts["build_info"] = fd.build_info()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["hardware"] |= {
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "driver": _driver(),
        }
    return facts


def _print_smi() -> None:
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=10)
        print(done.stdout or done.stderr, flush=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"nvidia-smi: {error}")


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.splitlines() or [None])[0]


def main() -> int:
    """Returns 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_report.facts")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", metavar="FILE.jsonl")
    options = parser.parse_args()
    facts = _describe(options.device)
    print(json.dumps(facts, indent=1), flush=True)
    results.append(options.rows, [{"facts": facts}])
    failed = 0
    for dtype in (torch.float32, torch.bfloat16):
        for name, check in checks(options.device, dtype):
            start, why = time.monotonic(), None
            try:
                check()
            except Exception as error:  # every failure is a result
                lines = str(error).splitlines() or [""]
                why = f"{type(error).__name__}: {lines[0]}"[:300]
            print(f"{name:24}{why or 'ok':8}{time.monotonic() - start:6.2f} s", flush=True)
            if why:
                failed += 1
                results.append(options.rows, [{"failed": f"facts: {name}", "why": why}])
    return int(failed > 0)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # After an illegal memory access, CUDA's destructors may hang at the end of the process.
    os._exit(status)
