"""The first step of the report compares every kind of call with the reference."""

import pytest
import torch

from benchmarks.gpu_report import facts

KINDS = [name for name, _ in facts.checks("cpu", torch.float32)]
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernels_of_the_cpu_pass(dtype):
    for _, check in facts.checks("cpu", dtype):
        check()


@pytest.mark.parametrize("name", KINDS)
def test_another_mask_is_noticed(name, monkeypatch):
    class Other(facts.Check):
        def __init__(self, device, dtype):
            super().__init__(device, dtype)
            self.state[1] += 4

    monkeypatch.setattr(facts, "Check", Other)
    with pytest.raises(AssertionError, match="differ"):
        dict(facts.checks("cpu", torch.float32))[name]()


def test_a_wrong_gradient_is_noticed():
    def wrong(state, x):
        return x + (x * 1e-2 - (x * 1e-2).detach())

    with pytest.raises(AssertionError, match=r"gradient by x differs by 0\.01"):
        facts.Check("cpu", torch.float32).compare(wrong, lambda state, x: x + 0, x=(3, 5))
