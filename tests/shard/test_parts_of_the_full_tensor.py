"""The results of the parts are parts of the full tensor's results, bit for bit."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import ORDERS, same_bits
from tests.shard.calls import (
    CALLS,
    NORMS,
    SHAPE,
    SPLITS,
    STATE,
    as_tuple,
    cut,
    every_call,
    gradients_of,
    parts_of,
    shard_of,
    tensors_of,
    upstream_of,
)

# Shaped like x: a part's gradient is a part of the full gradient. Other gradients are summed over
# the parts.
LIKE_X = ("x", "residual", "z")


def rows_only(name, split):
    return name in NORMS and 3 in SPLITS[split]


def order_to_give(part, order):
    """Returns the order of the full tensor if the part has two sizes of 1, and does not show it."""
    return order if sum(one.stop - one.start == 1 for one in part) > 1 else None


def check(name, split, order, *, copied=True, **options):
    """Every part against the full tensor."""
    tensors = tensors_of(name, order=order)
    full = as_tuple(CALLS[name](tensors, rng_state=STATE, **options))
    upstream = upstream_of(full)
    expected = gradients_of(full, tensors, upstream)
    sums = {}
    for part in parts_of(split):
        own = cut(tensors, part, copied)
        shard = shard_of(part, order=order_to_give(part, order))
        results = as_tuple(CALLS[name](own, rng_state=STATE, shard=shard, **options))
        for one, full_result in zip(results, full, strict=True):
            assert same_bits(one, full_result[part]), (split, part)
        found = gradients_of(results, own, [dy[part] for dy in upstream])
        for key, gradient in found.items():
            add_or_compare(key, gradient, expected[key], part, sums)
    for key, total in sums.items():
        torch.testing.assert_close(total, expected[key])


def add_or_compare(key, gradient, expected, part, sums):
    last = part[-1]
    if expected is None:
        assert gradient is None
    elif key in LIKE_X:
        assert same_bits(gradient, expected[part]), (key, part)
    elif key == "pair":
        for one, half in zip(gradient.chunk(2, -1), expected.chunk(2, -1), strict=True):
            assert same_bits(one, half[part]), part
    else:
        total = sums.setdefault(key, torch.zeros_like(expected))
        if key == "pair_bias":
            for one, half in zip(gradient.chunk(2), total.chunk(2), strict=True):
                half[last] += one
        else:
            total[{"logit": ..., "channels": part[1]}.get(key, last)] += gradient


@pytest.mark.parametrize("layout", ORDERS)
@every_call
def test_every_split(name, layout):
    for split in SPLITS:
        if rows_only(name, split):
            with pytest.raises(ValueError, match="needs full rows"):
                check(name, split, ORDERS[layout])
        else:
            check(name, split, ORDERS[layout])


@pytest.mark.parametrize("layout", ORDERS)
@pytest.mark.parametrize("name", ["dropout", "dropout_", "gelu", "gaussian", "standout"])
def test_views(name, layout):
    """A part that was not made dense, as slicing leaves it."""
    for split in SPLITS:
        check(name, split, ORDERS[layout], copied=False)


@pytest.mark.parametrize("split", ["uneven", "single", "with an empty part", "everywhere"])
@every_call
def test_shared_dims(name, split):
    """An outcome that is shared along a dimension is shared over all parts along it."""
    if not rows_only(name, split):
        for shared_dims in [(0,), (1,), (-1,), (2, 3), (0, 1, 2), (0, 1, 2, 3)]:
            for layout in ("contiguous", "channels_last"):
                check(name, split, ORDERS[layout], shared_dims=shared_dims)


@every_call
def test_noise_shape_is_that_of_the_full_tensor(name):
    """The 1 of a part with one element means shared, too; sizes are those of the full tensor."""
    for noise_shape in [(None, 1, None, None), (4, 7, 1, 1), (1, 1, 1, 1)]:
        for split in ("single", "grid"):
            if not rows_only(name, split):
                check(name, split, ORDERS["contiguous"], noise_shape=noise_shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", range(4))
def test_dtypes(capability, dtype, dim):
    """On each instruction set; parts end within registers."""
    x = torch.randn(SHAPE).to(dtype)
    bias = torch.randn(SHAPE[-1]).to(dtype)
    full = torch.nn.functional.pad(x, (0, 0)).requires_grad_()
    y = CALLS["gelu"]({"x": full, "bias": bias, "residual": x}, rng_state=STATE)
    (expected,) = torch.autograd.grad(y, full, x)
    for split in SPLITS:
        for part in parts_of(split):
            own = x[part].clone().requires_grad_()
            tensors = {"x": own, "bias": bias[part[-1]], "residual": x[part]}
            result = CALLS["gelu"](tensors, rng_state=STATE, shard=shard_of(part))
            assert same_bits(result, y[part])
            assert same_bits(torch.autograd.grad(result, own, x[part])[0], expected[part])


@every_call
def test_a_shard_of_the_full_tensor(name):
    """It changes nothing, in any layout."""
    for order in ORDERS.values():
        tensors = tensors_of(name, order=order)
        plain = as_tuple(CALLS[name](tensors, rng_state=STATE))
        shard = shard_of([slice(0, size) for size in SHAPE])
        assert all(
            torch.equal(*pair) and pair[0].stride() == pair[1].stride()
            for pair in zip(
                plain, as_tuple(CALLS[name](tensors, rng_state=STATE, shard=shard)), strict=True
            )
        )


OVERLAPPING = {
    "rows alike": lambda: torch.randn(6).expand(4, 8, 6),
    "columns alike": lambda: torch.randn(4, 8, 1).expand(4, 8, 6),
    "all alike": lambda: torch.randn(1, 1, 1).expand(4, 8, 6),
    "turned": lambda: torch.randn(6).expand(8, 4, 6).permute(2, 0, 1),
}


@pytest.mark.parametrize("layout", OVERLAPPING)
def test_overlapping_elements(layout):
    """Expanded tensors have no order of their own; they get the one that a result has."""
    full = OVERLAPPING[layout]()
    shape = tuple(full.shape)
    y = FF.dropout(full, 0.4, rng_state=STATE)
    for dim in range(3):
        for first, last in ((0, 2), (1, shape[dim])):
            part = [slice(0, size) for size in shape]
            part[dim] = slice(first, last)
            own = FF.dropout(full[tuple(part)], 0.4, rng_state=STATE, shard=shard_of(part, shape))
            assert torch.equal(own, y[tuple(part)])


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 1, 1), (1, 5, 1, 3)], ids=str)
def test_few_dimensions(shape):
    x = torch.ones(shape)
    full = CALLS["dropout"]({"x": x}, rng_state=STATE)
    shard = shard_of([slice(0, size) for size in shape], shape)
    assert torch.equal(CALLS["dropout"]({"x": x}, rng_state=STATE, shard=shard), full)
    for i in range(shape[0] if shape else 0):
        part = (slice(i, i + 1), *(slice(0, size) for size in shape[1:]))
        own = CALLS["dropout"]({"x": x[part]}, rng_state=STATE, shard=shard_of(part, shape))
        assert torch.equal(own, full[part])
