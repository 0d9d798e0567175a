"""The mask of a part against the reference's, also at indices beyond any memory."""

import itertools

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import ORDERS, in_order
from tests.shard.calls import STATE, every_split, parts_of, shard_of

SHAPE = (4, 7, 5, 6)
SUBSETS = [dims for n in range(5) for dims in itertools.combinations(range(4), n)]


def expected_mask(shape, shard, p=0.3, **options):
    j = reference.shard_index(shape, shard.shape, shard.offsets, order=shard.order, **options)
    return reference.draws(j, STATE) < reference.keep_count(p)


def masks_of(x, shard, p=0.3, **options):
    """What the mask function says, and what a call and its backward pass keep."""
    yield FF.dropout_mask(x.shape, p, STATE, like=x, shard=shard, **options)
    ones = x.detach().fill_(1).requires_grad_()
    y = FF.dropout(ones, p, rng_state=STATE, shard=shard, **options)
    yield y != 0
    yield torch.autograd.grad(y, ones, torch.ones_like(y))[0] != 0


@every_split
@pytest.mark.parametrize("layout", ORDERS)
def test_parts_of_the_references_mask(capability, layout, split):
    order = ORDERS[layout]
    like = in_order(SHAPE, order)
    for shared in SUBSETS:
        full = reference.dropout_mask(SHAPE, 0.3, STATE, like=like, shared_dims=shared)
        for part in parts_of(split):
            own, shard = torch.empty_like(like[part]), shard_of(part, order=order)
            index = reference.shard_index(
                own.shape, SHAPE, shard.offsets, shared_dims=shared, order=order
            )
            assert torch.equal(index, reference.mask_index(like, shared)[part])
            for mask in masks_of(own, shard, shared_dims=shared):
                assert torch.equal(mask, full[part])


@pytest.mark.parametrize("layout", ["channels_last", "permuted"])
@pytest.mark.parametrize("split", ["first", "uneven", "inner", "last", "single"])
def test_the_whole_has_the_parts_order(layout, split):
    """Without `order`, a single element along the dimension that is split included."""
    full = in_order(SHAPE, ORDERS[layout])
    mask = reference.dropout_mask(SHAPE, 0.3, STATE, like=full)
    for part in parts_of(split):
        for own in (full[part], full[part].clone()):
            for found in masks_of(own, shard_of(part)):
                assert torch.equal(found, mask[part])


@pytest.mark.parametrize("layout", ["channels_last", "permuted"])
def test_a_view_knows_the_place_of_its_single_elements(layout):
    """By its strides, which the dense mask that is made of it does not have."""
    full = in_order(SHAPE, ORDERS[layout])
    mask = reference.dropout_mask(SHAPE, 0.3, STATE, like=full)
    for dims in itertools.combinations(range(4), 2):
        part = tuple(slice(2, 3) if dim in dims else slice(0, n) for dim, n in enumerate(SHAPE))
        for found in masks_of(full[part], shard_of(part)):
            assert torch.equal(found, mask[part])


def test_order_wins_over_the_parts_own():
    """torch gives a tensor of one channel the strides of a contiguous one."""
    full = torch.empty(SHAPE).to(memory_format=torch.channels_last)
    mask = reference.dropout_mask(SHAPE, 0.3, STATE, like=full)
    part = (slice(None), slice(3, 4))
    own = torch.nn.functional.gelu(full[part].clone())
    assert own.stride() == (30, 30, 6, 1)
    shard = fd.Shard(SHAPE, (0, 3, 0, 0), order=(0, 2, 3, 1))
    assert torch.equal(FF.dropout_mask(own.shape, 0.3, STATE, like=own, shard=shard), mask[part])
    shard = fd.Shard(SHAPE, (0, 3, 0, 0))
    assert not torch.equal(
        FF.dropout_mask(own.shape, 0.3, STATE, like=own, shard=shard), mask[part]
    )


# 2^31 and 2^32 end the range of 32-bit indices, 2^35 that of a 32-bit group.
@pytest.mark.parametrize("exponent", [31, 32, 35, 40, 62])
def test_wholes_that_fit_no_memory(capability, exponent):
    length = 1 << (exponent - 16)
    for full, offsets, shape in [
        ((1 << exponent,), ((1 << exponent) - 1501,), (1501,)),
        ((1 << exponent,), ((1 << (exponent - 1)) - 700,), (1501,)),
        ((length, 1 << 16), (length - 5, 65003), (5, 300)),
        ((length, 1 << 16), (length // 2 - 3, 1), (5, 300)),
        ((3, length // 4, 1 << 16), (2, length // 4 - 5, 40000), (1, 5, 300)),
    ]:
        shard = fd.Shard(full, offsets)
        expected = expected_mask(shape, shard)
        assert expected.any() and not expected.all()
        for mask in masks_of(torch.empty(shape), shard):
            assert torch.equal(mask, expected)
        # Laid out the other way round, as the order of the full tensor says.
        turned = in_order(shape, tuple(reversed(range(len(shape)))))
        shard = fd.Shard(full, offsets, order=tuple(range(len(full))))
        for mask in masks_of(turned, shard):
            assert torch.equal(mask, expected)


@pytest.mark.parametrize("shared_dims", [(0,), (1,), (-1,), (0, 2)])
def test_shared_dims_of_a_large_whole(shared_dims):
    shard = fd.Shard((1 << 20, 1 << 18, 64), (987654, 200001, 32))
    expected = expected_mask((3, 20, 32), shard, shared_dims=shared_dims)
    for mask in masks_of(torch.empty(3, 20, 32), shard, shared_dims=shared_dims):
        assert torch.equal(mask, expected)


def test_rows_of_a_large_whole():
    """The operators that work row by row, beyond 2^32."""
    shard = fd.Shard((1 << 30, 40), ((1 << 30) - 9, 0))
    expected = expected_mask((9, 40), shard, p=0.5)
    x = torch.ones(9, 40)
    _, h = FF.dropout_add_rms_norm(x, x, prenorm=True, rng_state=STATE, shard=shard)
    assert torch.equal(h != 1, expected)
    pair = torch.ones(9, 80)
    y = FF.bias_glu_dropout(pair, activation="identity", rng_state=STATE, shard=shard)
    assert torch.equal(y != 0, expected)
    # The noise of an element, too, is that of its index in the full tensor.
    j = reference.shard_index((9, 40), shard.shape, shard.offsets)
    noise = FF.gaussian_dropout(x, 0.5, rng_state=STATE, shard=shard) - 1
    torch.testing.assert_close(
        noise, reference.normal(j, STATE, torch.float32), rtol=1e-5, atol=1e-5
    )


def test_the_reference_checks_the_place():
    with pytest.raises(ValueError, match="does not fit into"):
        reference.shard_index((3, 4), (8, 4), (6, 0))
    with pytest.raises(ValueError, match="does not fit into"):
        reference.shard_index((3, 4), (8, 4), (-1, 0))
