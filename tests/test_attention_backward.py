"""Eager attention on the CPU has a backward of its own: held to autograd's of the chain."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_dropout as fd
from fused_dropout.functional._attention import attend, chain, is_eager

P, SCALE = 0.3, 0.4


def inputs(layout):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 6)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors = [x.transpose(1, 2) for x in tensors]
    if layout == "contiguous":
        tensors = [x.contiguous() for x in tensors]
    return [x.requires_grad_() for x in tensors]


def masks():
    lowest = torch.zeros(2, 1, 5, 7, dtype=torch.float64)
    lowest[1, :, :, 4:] = float("-inf")
    return {"none": None, "padding": lowest, "one for all": torch.randn(5, 7).double()}


@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
@pytest.mark.parametrize("layout", ["contiguous", "heads inside"])
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1, 2)])
def test_equals_the_chain(mask, layout, needed):
    state = fd.new_rng_state()
    results = []
    for function in (chain, attend):
        tensors = inputs(layout)
        for index, x in enumerate(tensors):
            x.requires_grad_(index in needed)
        assert is_eager(*tensors, mask, P)
        output = function(*tensors, mask, P, SCALE, rng_state=state)
        output.backward(torch.linspace(-1, 1, output.numel()).double().view(output.shape))
        results.append((output, *(x.grad for x in tensors)))
    for index, (expected, got) in enumerate(zip(*results, strict=True)):
        assert (got is None) == (index > 0 and index - 1 not in needed)
        if got is not None:
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
def test_derivatives(mask):
    state = fd.new_rng_state()

    def function(*tensors):
        return attend(*tensors, mask, P, SCALE, rng_state=state)

    assert gradcheck(function, inputs("heads inside"))
    assert gradgradcheck(function, inputs("heads inside"))
