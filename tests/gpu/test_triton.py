"""The Triton kernels of the benchmarks: what they apply is dropout, and the same in backward.

On a GPU this shows that they compile there; the rehearsal runs them in Triton's interpreter, where
there is Triton.
"""

import os
import subprocess
import sys

import pytest
import torch

from tests.gpu.on_device import DEVICE

pytest.importorskip("triton")

import triton

from benchmarks.triton_dropout import FUNCTIONS

P = 0.3
INTERPRETED = triton.knobs.runtime.interpret


@pytest.mark.skipif(DEVICE != "cpu" or INTERPRETED, reason="the kernels are compiled")
def test_interpreted():
    """In a process of its own: the setting holds for all of Triton from its import on."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__]
    command += ["-k", "test_is_dropout"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout and "skipped" not in done.stdout, done.stdout


@pytest.mark.skipif(
    DEVICE == "cpu" and not INTERPRETED, reason="the interpreter has a process of its own"
)
@pytest.mark.parametrize("numel", [1, 1000, 4096, 100_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_is_dropout(name, dtype, numel):
    x = torch.randn(numel, device=DEVICE).to(dtype).requires_grad_()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        y = FUNCTIONS[name](P, x)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        results.append((y.detach(), dx))
    (y, dx), again, other = results
    kept = dx != 0
    expected = torch.where(kept, x.detach() / (1 - P), 0)
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=0)
    assert torch.equal(y, again[0]) and torch.equal(dx, again[1])
    if numel == 100_003:
        assert not torch.equal(dx, other[1])
        # Five standard deviations, of all and of each of the four numbers of a call.
        for part in (kept, *(kept[k::4] for k in range(4))):
            spread = (P * (1 - P) / part.numel()) ** 0.5
            assert abs(part.float().mean().item() - (1 - P)) < 5 * spread
        # Neighbours agree as independent ones do.
        share = (kept[1:] == kept[:-1]).float().mean().item()
        assert abs(share - (P**2 + (1 - P) ** 2)) < 0.01
