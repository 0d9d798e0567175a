"""The compositions for devices without kernels, called on the CPU: their masks and their cost."""

import itertools

import pytest
import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode

import fused_dropout.functional as FF
from tests.helpers import ORDERS, in_order, state

P = 0.4
STATE = state()
SHAPES = [(3, 5, 7, 11), (4, 8, 3, 16), (2, 1, 9, 1), (1, 1, 1, 1), (2, 0, 3, 4)]
SHARED = [dims for count in range(5) for dims in itertools.combinations(range(4), count)]


def composed(name, *arguments):
    operator = getattr(torch.ops.fused_dropout, name).default
    return operator._op_dk(DispatchKey.CompositeExplicitAutograd, *arguments)


def assert_same_mask(sizes, strides, *layout):
    arguments = (STATE, sizes, strides, P, *layout)
    expected = torch.ops.fused_dropout.dropout_mask(*arguments)
    found = composed("dropout_mask", *arguments)
    assert found.stride() == expected.stride()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_full_tensors(shape, order):
    x = in_order(shape, ORDERS[order])
    for shared, offset in itertools.product(SHARED, (0, 3, 8, 2**36 + 5)):
        assert_same_mask(x.shape, x.stride(), shared, None, offset)


@pytest.mark.parametrize(
    "mask_strides",
    [
        (560, 112, 16, 1),  # rows that begin at a slot of their own or at that of the first
        (5 * 7 * 13, 7 * 13, 13, 1),
        (1155, 0, 11, 1),
        (24, 1, 40, 8),
        (1000, 100, 10, 2),  # no two indices follow each other
        (3, 5, 1, 1),  # the same index for several elements
        (0, 0, 0, 0),
        (2**40, 2**20, 2**10, 1),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_parts_of_tensors(shape, mask_strides):
    strides = torch.empty(shape).stride()
    for offset in (0, 3, 8, 13, 2**36 + 5):
        assert_same_mask(shape, strides, (), mask_strides, offset)


@pytest.mark.parametrize("shared", [(), (1,), (0, 3)])
@pytest.mark.parametrize("function", [FF.gaussian_dropout, FF.concrete_dropout, FF.standout])
def test_noise_of_every_layout(function, shared):
    x = torch.randn(3, 5, 7, 11)
    second = {FF.concrete_dropout: (torch.tensor(-1.0),), FF.standout: (torch.randn(x.shape),)}
    options = {FF.concrete_dropout: (0.1,), FF.standout: (1.0, 0.0, True)}
    for order, mask_strides in itertools.product(ORDERS.values(), (None, (900, 130, 13, 1))):
        ordered = in_order(x.shape, order).copy_(x)
        layout = (shared if mask_strides is None else (), mask_strides, 3)
        arguments = (
            *(ordered, *second.get(function, ()), STATE),
            *(*options.get(function, (P, None)), *layout),
        )
        expected = getattr(torch.ops.fused_dropout, function.__name__)(*arguments)
        torch.testing.assert_close(composed(function.__name__, *arguments), expected)


class Counted(TorchDispatchMode):
    """Counts the calls of operators, and the integers that they compute."""

    def __init__(self):
        super().__init__()
        self.calls = self.integers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        self.calls += 1
        if result.dtype == torch.int64 and not operator.is_view:
            self.integers += result.numel()
        return result


def test_few_calls_that_compute_little():
    """A group of eight elements shares the words of Philox, which take about 100 calls."""
    x = torch.randn(64, 1024)
    tensors, mask = (x, None, None, STATE), ([], None, 0)
    with Counted() as counted:
        composed(
            "bias_act_dropout", *tensors, P, None, "identity", None, None, -1, "inverted", True,
            *mask,
        )  # fmt: skip
    assert counted.calls <= 160
    assert counted.integers <= 16 * x.numel()
