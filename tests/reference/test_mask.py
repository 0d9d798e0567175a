"""The reference's mask, worked by hand; its index follows memory."""

import itertools
import math

import pytest
import torch

from fused_dropout import reference
from tests.reference.known import ENGINE, FIRST_DRAWS, STATE, halves_of, permuted, words_of

ORDERS = list(itertools.permutations(range(4)))


def memory_position(x):
    """Where each element of `x` lies once it is dense, as torch itself lays it out."""
    dense = torch.empty_like(x, dtype=torch.int64)
    dense.as_strided((x.numel(),), (1,)).copy_(torch.arange(x.numel()))
    return dense


def test_mask_worked_by_hand():
    # At p = 0.25 the draws below 0xc000 are kept.
    kept = [draw < 0xC000 for draw in FIRST_DRAWS]
    assert kept == [False, True, False, False, True, True, False, True]
    assert reference.dropout_mask((8,), 0.25, (0, 0)).tolist() == kept
    assert reference.dropout_mask((2, 4), 0.25, (0, 0)).tolist() == [kept[:4], kept[4:]]
    transposed = torch.empty(4, 2).t()
    mask = reference.dropout_mask((2, 4), 0.25, (0, 0), like=transposed)
    assert mask.tolist() == [kept[0::2], kept[1::2]]
    mask = reference.dropout_mask((3, 2), 0.25, (0, 0), shared_dims=(0,), mask_offset=3)
    assert mask.tolist() == [kept[3:5]] * 3


@pytest.mark.parametrize("lane", range(8))
def test_a_draw_equal_to_keep_count_is_dropped(lane):
    draw = FIRST_DRAWS[lane]
    for count, kept in [(draw, False), (draw + 1, True)]:
        p = 1 - count / 65536
        assert reference.keep_count(p) == count
        assert reference.dropout_mask((8,), p, (0, 0))[lane].item() is kept


@pytest.mark.parametrize("p, kept", [(0, True), (1e-10, True), (1, False), (1 - 1e-10, False)])
def test_mask_at_the_ends_draws_nothing(p, kept):
    assert (reference.dropout_mask((3, 5), p, None) == kept).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (1, 1), (5, 3)])
def test_mask_of_any_shape(shape):
    mask = reference.dropout_mask(shape, 0.5, STATE)
    assert mask.shape == shape and mask.dtype == torch.bool
    flat = reference.dropout_mask((math.prod(shape),), 0.5, STATE)
    assert torch.equal(mask, flat.view(shape))


def test_mask_with_an_offset_is_a_part_of_the_whole():
    full = reference.dropout_mask((1000,), 0.5, STATE)
    for start, stop in [(0, 1), (3, 1000), (8, 16), (333, 777)]:
        part = reference.dropout_mask((stop - start,), 0.5, STATE, mask_offset=start)
        assert torch.equal(part, full[start:stop])


def test_mask_beyond_32_bits():
    for seed, offset, group, words in ENGINE:
        kept = [draw < 39322 for draw in halves_of(words_of(words))]
        mask = reference.dropout_mask((8,), 0.4, (seed, offset), mask_offset=8 * group)
        assert mask.tolist() == kept
    # Neither the index nor the group is cut to 32 bits, and a mask goes on over the limit.
    starts = [0, 1 << 32, 1 << 35, 1 << 36, 1 << 62]
    masks = [reference.dropout_mask((256,), 0.5, STATE, mask_offset=start) for start in starts]
    for one, other in itertools.combinations(masks, 2):
        assert 64 < (one != other).sum() < 192
    for limit, after in [(1 << 32, masks[1]), (1 << 35, masks[2])]:
        over = reference.dropout_mask((300,), 0.5, STATE, mask_offset=limit - 44)
        assert torch.equal(over[44:], after)


def test_mask_offset_is_not_negative():
    with pytest.raises(ValueError, match="mask_offset"):
        reference.dropout_mask((8,), 0.5, STATE, mask_offset=-1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start", [0, 1])
def test_index_is_the_position_in_memory(order, start):
    x = permuted((4, 3, 2, 5), order)[start:, start:]
    assert reference.memory_order(x) == order
    index = reference.mask_index(x)
    assert torch.equal(index, memory_position(x))
    mask = reference.dropout_mask(x.shape, 0.5, STATE, like=x)
    flat = reference.dropout_mask((x.numel(),), 0.5, STATE)
    assert torch.equal(mask, flat[index])


@pytest.mark.parametrize(
    "x",
    [
        torch.empty(()),
        torch.empty(1),
        torch.empty(6, 8)[:, ::2],
        torch.empty(6, 8)[::3, 1:],
        torch.empty(6, 8).t()[1:, ::2],
        torch.empty(5).expand(3, 5),
        torch.empty(3, 1).expand(3, 5),
        torch.empty(2, 3, 1, 1).to(memory_format=torch.channels_last),
        torch.empty(2, 1, 4, 5).to(memory_format=torch.channels_last),
        torch.empty(2, 3, 4, 5, 2).to(memory_format=torch.channels_last_3d)[:, 1:],
        torch.empty(60).as_strided((3, 1, 4), (1, 50, 3)),
        torch.empty(20).as_strided((3, 4), (2, 3)),
    ],
    ids=lambda x: f"{tuple(x.shape)}-{x.stride()}",
)
def test_index_of_views(x):
    assert torch.equal(reference.mask_index(x), memory_position(x))


def test_ties_in_dimension_order():
    assert reference.memory_order(torch.empty(1, 1, 1)) == (0, 1, 2)
    assert reference.memory_order(torch.empty_strided((4, 1), (1, 1))) == (0, 1)


def test_unbatched_and_batch_of_one():
    x = permuted((3, 4, 5), (1, 2, 0))
    one = reference.dropout_mask((1, 3, 4, 5), 0.5, STATE, like=x[None])
    assert torch.equal(one[0], reference.dropout_mask((3, 4, 5), 0.5, STATE, like=x))


@pytest.mark.parametrize("order", ORDERS)
def test_shared_dimensions_are_left_out(order):
    for shared in [(0,), (2,), (-1,), (2, 3), (0, -2), (1, 2, 3), (0, 1, 2, 3)]:
        x = permuted((2, 3, 4, 5), order)
        left = x
        for dim in sorted(dim % 4 for dim in shared):
            left = left.narrow(dim, 0, 1)
        expected = memory_position(left).expand(x.shape)
        assert torch.equal(reference.mask_index(x, shared), expected)
        mask = reference.dropout_mask(x.shape, 0.5, STATE, like=x, shared_dims=shared)
        flat = reference.dropout_mask((left.numel(),), 0.5, STATE)
        assert torch.equal(mask, flat[expected])


@pytest.mark.parametrize(
    "shape, shared, a, b, c",
    [
        ((4, 6, 5, 3), (2, 3), 24, 15, 1),  # spatial, NCHW
        ((4, 5, 3, 6), (1, 2), 4, 15, 6),  # spatial, NHWC storage
        ((7, 4, 6), (0,), 1, 7, 24),  # locked, time first
        ((4, 7, 6), (1,), 4, 7, 6),  # locked, batch first
        ((4, 7, 6), (1, 2), 4, 42, 1),  # stochastic depth, per row
        ((4, 7, 6), (0, 1, 2), 1, 168, 1),  # stochastic depth, per batch
        ((4, 7, 6), (2,), 28, 6, 1),  # token
    ],
)
def test_shared_dimensions_by_the_broadcast_rule(shape, shared, a, b, c):
    lin = torch.arange(a * b * c).view(shape)
    expected = lin // (b * c) * c + lin % c
    assert torch.equal(reference.mask_index(shape, shared), expected)
    assert torch.equal(reference.mask_index(torch.empty(shape), shared), expected)


def test_mask_strides():
    assert reference.mask_strides((2, 3, 5)) == (15, 5, 1)
    assert reference.mask_strides((2, 3, 5), (1,)) == (5, 0, 1)
    assert reference.mask_strides((2, 3, 5), (-1,)) == (3, 1, 0)
    channels_last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert reference.mask_strides(channels_last) == (60, 1, 15, 3)
    assert reference.mask_strides(channels_last, (2, 3)) == (3, 1, 0, 0)
    assert reference.mask_strides(channels_last, (1,)) == (20, 0, 5, 1)
    assert reference.mask_strides(()) == ()


def test_spatial_mask_does_not_depend_on_the_memory_format():
    x = torch.empty(4, 6, 5, 3)
    masks = [
        reference.dropout_mask(x.shape, 0.5, STATE, like=like, shared_dims=(2, 3))
        for like in (x, x.to(memory_format=torch.channels_last))
    ]
    assert torch.equal(*masks)
    assert (masks[0] == masks[0][:, :, :1, :1]).all()
    assert 0 < masks[0].sum() < masks[0].numel()


@pytest.mark.parametrize(
    "noise_shape, shared",
    [
        ((4, 1, 6), (1,)),
        ((None, 1, None), (1,)),
        ((1, 1, 1), (0, 1, 2)),
        ((4, 5, 6), ()),
        ((None, None, None), ()),
    ],
)
def test_noise_shape(noise_shape, shared):
    assert reference.shared_dims_from_noise_shape((4, 5, 6), noise_shape) == shared
    x = torch.ones(4, 5, 6)
    torch.testing.assert_close(
        reference.dropout(x, 0.5, STATE, noise_shape=noise_shape),
        reference.dropout(x, 0.5, STATE, shared_dims=shared),
        rtol=0,
        atol=0,
    )


def test_noise_shape_of_size_one():
    assert reference.shared_dims_from_noise_shape((1, 5), (1, 1)) == (1,)


@pytest.mark.parametrize(
    "noise_shape", [(), (4, 1), (4, 1, 6, 1), (4, 2, 6), (4, -1, 6), (0, 5, 6)]
)
def test_noise_shape_that_does_not_fit(noise_shape):
    with pytest.raises(ValueError, match="noise_shape"):
        reference.shared_dims_from_noise_shape((4, 5, 6), noise_shape)


def test_bad_dimensions():
    with pytest.raises(ValueError, match=r"shared_dims is .* and noise_shape is"):
        reference.dropout(torch.ones(2, 3), 0.5, STATE, shared_dims=(0,), noise_shape=(1, 3))
    for dim in (2, -3):
        with pytest.raises(IndexError, match="out of range"):
            reference.mask_strides((2, 3), (dim,))
    with pytest.raises(ValueError, match="like has shape"):
        reference.dropout_mask((6,), 0.5, STATE, like=torch.ones(2, 3))
