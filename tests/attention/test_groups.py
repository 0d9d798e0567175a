"""Eager attention on the CPU, in groups of matrices or without: its results and its memory."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout.functional import _attention
from fused_dropout.functional._attention import attend, can_attend, unfused_attention

P, SCALE = 0.3, 0.4


BYTES = 5 * 7 * 8  # of the scores of one head
GROUPS = {"all at once": 6, "four and two": 4, "one by one": 0}


@pytest.fixture(params=[*GROUPS, "without groups"], autouse=True)
def groups(request, monkeypatch):
    """Six matrices, in groups."""
    if request.param in GROUPS:
        monkeypatch.setattr(_attention, "_BUFFER", GROUPS[request.param] * BYTES)
    else:
        monkeypatch.setattr(_attention, "_SMALL", 6 * BYTES)


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
    return {
        "none": None,
        "for each example": lowest,
        "padding": lowest[:, :, :1],
        "for each head": torch.randn(3, 5, 7).double(),
        "one for all": torch.randn(5, 7).double(),
        "a row": torch.randn(7).double(),
    }


@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
@pytest.mark.parametrize("layout", ["contiguous", "heads inside"])
@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1, 2)])
def test_equals_the_unfused_operators(mask, layout, needed):
    state = fd.new_rng_state()
    results = []
    for function in (unfused_attention, attend):
        tensors = inputs(layout)
        for index, x in enumerate(tensors):
            x.requires_grad_(index in needed)
        assert can_attend(*tensors, mask, P)
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

    assert gradcheck(function, inputs("heads inside"), fast_mode=True)
    assert gradgradcheck(function, inputs("heads inside"), fast_mode=True)


@pytest.mark.parametrize("groups", GROUPS, indirect=True)
def test_two_buffers_and_the_inputs():
    """Neither scores nor probabilities are kept for backward."""
    kept = {}

    def pack(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    tensors = inputs("contiguous")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        FF.scaled_dot_product_attention(*tensors, dropout_p=P)
    assert sum(kept.values()) == sum(x.nbytes for x in tensors) + 16
