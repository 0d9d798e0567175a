"""fd.Shard: its fields, its constructors and their errors."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch

import fused_dropout as fd


def test_it_holds_integers():
    shard = fd.Shard(torch.Size([8, 4]), [2, 0])
    assert (shard.shape, shard.offsets, shard.order) == ((8, 4), (2, 0), None)
    assert shard == fd.Shard((8, 4), (np.int64(2), 0)) != fd.Shard((8, 4), (2, 1))
    assert hash(shard) == hash(fd.Shard((8, 4), (2, 0)))
    assert repr(shard) == "Shard(shape=(8, 4), offsets=(2, 0), order=None)"
    for same in (copy.deepcopy(shard), pickle.loads(pickle.dumps(shard))):
        assert same == shard
    assert fd.Shard([8, 4], [2, 0], order=[1, 0]).order == (1, 0)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        fd.Shard((8,), (0,)).shape = (9,)


@pytest.mark.parametrize("x", [torch.empty(4, 6), (4, 6), [4, 6], torch.Size([4, 6])], ids=type)
def test_equal_parts(x):
    assert fd.Shard.of(x, 0, 2, 3) == fd.Shard((12, 6), (8, 0))
    assert fd.Shard.of(x, -1, 0, 5) == fd.Shard((4, 30), (0, 0))
    assert fd.Shard.of(x, 1, 0, 1) == fd.Shard((4, 6), (0, 0))


def test_equal_parts_along_several_dimensions():
    shard = fd.Shard.of((4, 6), 0, 1, 2).along(1, 2, 3)
    assert shard == fd.Shard((8, 18), (4, 12))
    # A part of a part: the second of three of the first of two.
    assert fd.Shard.of((4,), 0, 1, 3).along(0, 1, 2) == fd.Shard((24,), (16,))
    assert fd.Shard((8, 2), (4, 0), order=(1, 0)).along(1, 1, 2) == fd.Shard(
        (8, 4), (4, 2), order=(1, 0)
    )


@pytest.mark.parametrize("size, count", [(7, 3), (5, 4), (6, 3), (9, 4), (3, 5)])
def test_the_docstrings_rule_for_uneven_parts(size, count):
    starts = torch.arange(size)
    n = -(-size // count)
    for index, part in enumerate(starts.chunk(count)):
        assert fd.Shard((size,), (n * index,)).offsets[0] == part[0]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: fd.Shard((8, 4), (0,)),
            ValueError,
            "Shard: offsets has 1 entries, but expected 2",
        ),
        (lambda: fd.Shard((8,), (-1,)), ValueError, "offsets has -1 in dimension 0.* 0 to 8"),
        (lambda: fd.Shard((8, 4), (0, 5)), ValueError, "offsets has 5 in dimension 1.* 0 to 4"),
        (lambda: fd.Shard((8, -4), (0, 0)), ValueError, "shape has -4 in dimension 1"),
        (lambda: fd.Shard((8.0,), (0,)), TypeError, r"Shard: shape is \(8.0,\), but expected int"),
        (
            lambda: fd.Shard((8,), ("0",)),
            TypeError,
            r"Shard: offsets is \('0',\), but expected int",
        ),
        (lambda: fd.Shard(8, (0,)), TypeError, "Shard: shape is 8, but expected integers"),
        (lambda: fd.Shard((8, 4), (0, 0), order=(0, 0)), ValueError, r"order is \(0, 0\).* 0 to 1"),
        (lambda: fd.Shard((8, 4), (0, 0), order=(0,)), ValueError, r"Shard: order is \(0,\)"),
        (lambda: fd.Shard((8, 4), (0, 0), order=(1, 0.0)), TypeError, "order is .*integers"),
        (lambda: fd.Shard.of((8, 4), 2, 0, 1), IndexError, "dim is 2, but the shard has 2 dim"),
        (lambda: fd.Shard.of((8, 4), -3, 0, 1), IndexError, "dim is -3"),
        (lambda: fd.Shard.of((8, 4), 0, 2, 2), ValueError, "index is 2 and count is 2"),
        (lambda: fd.Shard.of((8, 4), 0, -1, 2), ValueError, "index is -1 and count is 2"),
        (lambda: fd.Shard.of((8, 4), 0, 0, 0), ValueError, "index is 0 and count is 0"),
        (lambda: fd.Shard.of((8, 4), 0, 0.5, 2), TypeError, r"index, count is \(0, 0.5, 2\)"),
        (lambda: fd.Shard.of((8, 4.5), 0, 0, 2), TypeError, "Shard: x is"),
        (lambda: fd.Shard.from_dtensor(torch.ones(3)), TypeError, "tensor is a Tensor, but expect"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
