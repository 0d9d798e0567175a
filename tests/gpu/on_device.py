"""Helpers of the tests on a GPU: the device, CUDA graphs, and a call there and on the CPU."""

import os

import pytest
import torch

from tests.helpers import operator, state

IS_ASKED_FOR = "FUSED_DROPOUT_TEST_DEVICE" in os.environ
DEVICE = os.environ.get("FUSED_DROPOUT_TEST_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
STATE = state()
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def captured(step):
    """What ``step()`` returns, tensors, and a function that replays it as a CUDA graph.

    In the rehearsal a replay calls it once more, and writes the results into the same tensors.
    """
    if DEVICE == "cpu":
        outputs = step()

        def replay():
            for output, new in zip(outputs, step(), strict=True):
                output.detach().copy_(new.detach())

        return outputs, replay
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    return outputs, graph.replay


def graphed(model, x):
    """The model, as ``torch.cuda.make_graphed_callables`` makes it; in the rehearsal as it is."""
    return model if DEVICE == "cpu" else torch.cuda.make_graphed_callables(model, (x,))


def skip_without_memory(needed):
    """``needed``: bytes. Sizes of a rehearsal need little."""
    if DEVICE != "cpu" and (free := torch.cuda.mem_get_info()[0]) < needed:
        pytest.skip(f"needs {needed >> 30} GiB of GPU memory, {free >> 30} GiB are free")


def there(*tensors):
    """The same tensors on the device, in the same strides; None stays None."""
    moved = tuple(
        None if one is None else torch.empty_like(one, device=DEVICE).copy_(one) for one in tensors
    )
    return moved if len(moved) != 1 else moved[0]


def random(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def results(x, bias=None, residual=None, dy=None, rng_state=STATE, **options):
    """y, and the gradients of x and bias, as the operator gives them where its arguments are."""
    x = x.detach().requires_grad_()
    bias = None if bias is None else bias.detach().requires_grad_()
    y = operator(x, bias, residual, rng_state.to(x.device), **options)
    wanted = [one for one in (x, bias) if one is not None]
    return y.detach(), *torch.autograd.grad(y, wanted, torch.ones_like(y) if dy is None else dy)


def here_and_there(x, bias=None, residual=None, dy=None, **options):
    """`results` on the CPU, and the same call on the device, brought back."""
    here = results(x, bias, residual, dy, **options)
    moved = there(x, bias, residual, dy)
    return here, [one.cpu() for one in results(*moved, **options)]
