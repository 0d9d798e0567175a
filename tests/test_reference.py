"""The reference against everything that is not the reference.

Its numbers are held to the published known answers of Philox, to values printed by
`at::philox_engine`, to memory positions as torch lays tensors out, and to formulas and small cases
worked by hand.
"""

import itertools
import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from fused_dropout import reference

STATE = (0x1234, 8)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ORDERS = list(itertools.permutations(range(4)))
PROBABILITIES = (1e-3, 0.003, 0.1, 0.25, 0.33, 0.5, 0.75, 0.999)

# Philox4x32-10: (key, counter, words), from Random123's kat_vectors.
KNOWN_ANSWERS = [
    ("00000000 00000000", "00000000 " * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff", "ffffffff " * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        "a4093822 299f31d0",
        "243f6a88 85a308d3 13198a2e 03707344",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

# The first four words of at::philox_engine(seed, group, offset / 4).
ENGINE = [
    (0x123456789ABCDEF0, 0, 3, "7c3fc739 a3e7e272 7b5e8a32 c0b07bf4"),
    (-5, 4 * 7, 1 << 33, "6ca4d4b2 8aad18c8 d77afabd f86180cb"),
    (42, 4 * ((1 << 40) + 12345), 0x0370734413198A2E, "b34202ec 9a1f31b2 303fe92f ccd1541a"),
]

# The draws of seed 0, offset 0, group 0: the halves of the first known answer, low half first.
FIRST_DRAWS = [0xE8D5, 0x6627, 0xC58D, 0xE169, 0xAC4C, 0xBC57, 0xDBD8, 0x9B00]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Waiting for a second thread on a busy machine costs more than these small tensors do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def words_of(text):
    return tuple(int(word, 16) for word in text.split())


def halves_of(words):
    return [half for word in words for half in (word % 65536, word // 65536)]


def memory_position(x):
    """Where each element of `x` lies once it is dense, as torch itself lays it out."""
    dense = torch.empty_like(x, dtype=torch.int64)
    dense.as_strided((x.numel(),), (1,)).copy_(torch.arange(x.numel()))
    return dense


def permuted(shape, order):
    """A tensor of the given shape whose dimensions lie in memory in the given order."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return torch.empty([shape[dim] for dim in order]).permute(inverse)


# ---------------------------------------------------------------- the generator


@pytest.mark.parametrize("key, counter, words", KNOWN_ANSWERS)
def test_philox_known_answers(key, counter, words):
    assert reference.philox4x32_10(words_of(key), words_of(counter)) == words_of(words)


def test_philox_of_tensors_equals_philox_of_ints():
    words = torch.randint(0, 1 << 32, (6, 500), generator=torch.Generator().manual_seed(0))
    words[:, :2] = torch.tensor([0, 0xFFFFFFFF])  # the extremes of the 64-bit products
    vectorised = torch.stack(reference.philox4x32_10(words[:2], words[2:]))
    one_by_one = [reference.philox4x32_10(c[:2], c[2:]) for c in words.T.tolist()]
    assert vectorised.T.tolist() == [list(row) for row in one_by_one]


@pytest.mark.parametrize("seed, offset, group, words", ENGINE)
def test_draws_match_the_engine_of_torch(seed, offset, group, words):
    j = 8 * group + torch.arange(8)
    expected = halves_of(words_of(words))
    assert reference.draws(j, torch.tensor([seed, offset])).tolist() == expected
    assert reference.draws(j, (seed, offset)).tolist() == expected
    assert reference.draws(j, (seed % 2**64, offset)).tolist() == expected
    assert reference.draws(j.flip(0).view(2, 4), (seed, offset)).tolist() == [
        expected[:3:-1],
        expected[3::-1],
    ]


def test_draws_take_lanes_low_half_first():
    assert reference.draws(torch.arange(8), (0, 0)).tolist() == FIRST_DRAWS


def test_draws_in_any_order_with_repeats():
    j = torch.randint(0, 1 << 40, (300,), generator=torch.Generator().manual_seed(0))
    j = torch.cat([j, j[:50], j[:50] + 1, torch.arange(100)])
    one_by_one = [reference.draws(single, STATE).item() for single in j]
    assert reference.draws(j, STATE).tolist() == one_by_one
    assert len(set(one_by_one)) > 300


def test_draws_of_no_index():
    assert reference.draws(torch.arange(0).view(0, 3), STATE).shape == (0, 3)


@pytest.mark.parametrize("offset", [-4, -1, 1, 2, 3, 6])
def test_offset_is_a_multiple_of_four(offset):
    with pytest.raises(ValueError, match="multiple of 4"):
        reference.draws(torch.arange(8), (0, offset))


# ---------------------------------------------------------------- keep_count, scale, constants


@pytest.mark.parametrize(
    "p, count",
    [
        (0, 65536),
        (1, 0),
        (0.5, 32768),
        (0.1, 58982),
        (0.33, 43909),
        (0.003, 65339),
        (0.001, 65470),
        (0.999, 66),
        (1e-10, 65536),
        (0.5 / 65536, 65536),  # the ties go to the even neighbour
        (1.5 / 65536, 65534),
        (2.5 / 65536, 65534),
        (1 - 0.5 / 65536, 0),
        (1 - 1.5 / 65536, 2),
        (1 - 2.5 / 65536, 2),
    ],
)
def test_keep_count(p, count):
    assert reference.keep_count(p) == count
    assert reference.keep_count(torch.tensor(p, dtype=torch.float64)) == count


@pytest.mark.parametrize("p", [-0.1, 1.1, 2, math.nan])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got"):
        reference.keep_count(p)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_scale_is_that_of_the_probability_applied(p):
    count = reference.keep_count(p)
    y = reference.dropout(torch.ones(4096), p, STATE)
    assert set(y.tolist()) == {0.0, torch.tensor(65536 / count).item()}
    # All 65536 draws together give back the value, with the scale as exact as a double can be.
    assert abs(Fraction(reference.scale(p)) * count / 65536 - 1) <= Fraction(1, 2**52)


@pytest.mark.parametrize("mode", reference.MODES)
def test_constants_at_the_ends(mode):
    assert reference.constants(0, mode) == (1, 0, 1 * reference.ALPHA_PRIME * (mode == "alpha"))
    assert reference.constants(1, mode) == (0, 0, 0)
    assert reference.constants(1 - 0.5 / 65536, mode) == (0, 0, 0)
    assert reference.scale(1) == 0


@pytest.mark.parametrize("p", PROBABILITIES)
def test_alpha_keeps_zero_mean_and_unit_variance(p):
    a, c, d = reference.constants(p, "alpha")
    q = reference.keep_count(p) / 65536
    mean = q * c + (1 - q) * d
    second_moment = q * (a * a + c * c) + (1 - q) * d * d  # of a standard normal input
    assert abs(mean) < 1e-15 * a
    assert second_moment == pytest.approx(1, rel=1e-14, abs=0)


def test_alpha_constants_are_those_of_torch():
    _, c, d = reference.constants(0.5, "alpha")
    of_torch = F.alpha_dropout(torch.zeros(1000, dtype=torch.float64), 0.5, training=True).unique()
    torch.testing.assert_close(of_torch, torch.tensor([d, c], dtype=torch.float64))
    # The value that a dropped element takes before the affine map: the infimum of SELU.
    least = reference.activation("selu", torch.tensor(-1e3, dtype=torch.float64))
    assert least.item() == pytest.approx(reference.ALPHA_PRIME, rel=1e-15, abs=0)


def moments(p, mode, values):
    """Mean and variance of dropout over equally likely values, each draw counted exactly."""
    a, c, d = map(Fraction, reference.constants(p, mode))
    keep = Fraction(reference.keep_count(p), 65536)
    outcomes = [(keep, a * y + c) for y in values] + [(1 - keep, d)] * len(values)
    mean = sum(weight * y for weight, y in outcomes) / len(values)
    return mean, sum(weight * (y - mean) ** 2 for weight, y in outcomes) / len(values)


def test_moments_of_the_worked_example():
    values = (1, 2, 3, 4)
    assert moments(0.5, "classic", values) == (1.25, 2.1875)
    assert moments(0.5, "inverted", values) == (2.5, 8.75)
    assert [moments(0.5, "classic", [y]) for y in values] == [
        (0.5, 0.25),
        (1, 1),
        (1.5, 2.25),
        (2, 4),
    ]
    assert [moments(0.5, "inverted", [y]) for y in values] == [(1, 1), (2, 4), (3, 9), (4, 16)]


def test_variance_over_the_keep_probability():
    probabilities = [drop / 100 for drop in range(5, 100, 5)]
    classic = [moments(p, "classic", (1, 2, 3, 4))[1] for p in probabilities]
    inverted = [moments(p, "inverted", (1, 2, 3, 4))[1] for p in probabilities]
    assert probabilities[classic.index(max(classic))] == 0.4
    assert inverted == sorted(inverted)


# ---------------------------------------------------------------- the mask


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
    whole = reference.dropout_mask((1000,), 0.5, STATE)
    for start, stop in [(0, 1), (3, 1000), (8, 16), (333, 777)]:
        part = reference.dropout_mask((stop - start,), 0.5, STATE, mask_offset=start)
        assert torch.equal(part, whole[start:stop])


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


# ---------------------------------------------------------------- layouts


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
@pytest.mark.parametrize("shared", [(0,), (2,), (-1,), (2, 3), (0, -2), (1, 2, 3), (0, 1, 2, 3)])
def test_shared_dimensions_are_left_out(order, shared):
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
    with pytest.raises(ValueError, match="shared_dims and noise_shape"):
        reference.dropout(torch.ones(2, 3), 0.5, STATE, shared_dims=(0,), noise_shape=(1, 3))
    for dim in (2, -3):
        with pytest.raises(IndexError, match="out of range"):
            reference.mask_strides((2, 3), (dim,))
    with pytest.raises(ValueError, match="like has shape"):
        reference.dropout_mask((6,), 0.5, STATE, like=torch.ones(2, 3))


# ---------------------------------------------------------------- statistics, bounds at 5 sigma

N = 1 << 20


@pytest.fixture(scope="module")
def many_draws():
    return reference.draws(torch.arange(N), (2024, 0))


def test_every_lane_is_uniform(many_draws):
    for lane in range(8):
        draws = many_draws[lane::8]
        for byte in (draws >> 8, draws & 255):
            expected = len(draws) / 256
            chi2 = ((byte.bincount(minlength=256) - expected) ** 2 / expected).sum().item()
            assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


def test_draws_near_each_other_are_uncorrelated(many_draws):
    centred = many_draws.double() - 32767.5
    for lag in [*range(1, 33), 64, 128, 256, 1024, 4096]:
        correlation = (centred[lag:] * centred[:-lag]).mean().item() / (65536**2 / 12)
        assert abs(correlation) < 5 / math.sqrt(N - lag), lag


@pytest.mark.parametrize("state", [(2024, 4), (2025, 0), (2024 + (1 << 32), 0), (2024, 1 << 34)])
def test_states_near_each_other_are_uncorrelated(many_draws, state):
    n = 1 << 17
    one = many_draws[:n].double() - 32767.5
    other = reference.draws(torch.arange(n), state).double() - 32767.5
    for shift in (0, 1, 2, 4, 8, 16):
        correlation = (one[shift:] * other[: n - shift]).mean().item() / (65536**2 / 12)
        assert abs(correlation) < 5 / math.sqrt(n - shift)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_share_of_kept_elements(many_draws, p):
    count = reference.keep_count(p)
    kept = (many_draws < count).sum().item()
    q = count / 65536
    assert abs(kept - N * q) < 5 * math.sqrt(N * q * (1 - q))


# ---------------------------------------------------------------- continuous draws


def test_uniform_and_normal_worked_by_hand():
    u = [(word // 256 + 0.5) / 2**24 for word in words_of(KNOWN_ANSWERS[0][2])]
    assert reference.uniform(torch.arange(4), (0, 0)).tolist() == u
    expected = []
    for u0, u1 in (u[:2], u[2:]):
        radius = math.sqrt(-2 * math.log(u0))
        expected += [radius * math.cos(2 * math.pi * u1), radius * math.sin(2 * math.pi * u1)]
    z = reference.normal(torch.arange(4), (0, 0))
    torch.testing.assert_close(z, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)


def test_continuous_draws_take_four_words_a_group():
    for seed, offset, group, words in ENGINE:
        u = [(word // 256 + 0.5) / 2**24 for word in words_of(words)]
        j = 4 * group + torch.arange(4)
        assert reference.uniform(j, (seed, offset)).tolist() == u
        z = reference.normal(j, (seed, offset))
        assert z.square().view(2, 2).sum(1).tolist() == pytest.approx(
            [-2 * math.log(u[0]), -2 * math.log(u[2])], rel=1e-14, abs=0
        )
        assert reference.normal(j[2:].flip(0), (seed, offset)).tolist() == z[2:].flip(0).tolist()


def test_distribution_of_uniforms():
    n = N // 4
    u = reference.uniform(torch.arange(n), STATE)
    assert 0 < u.min() < 1e-4 and 1 - 1e-4 < u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    assert torch.equal(u.float(), reference.uniform(torch.arange(n), STATE, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_distribution_of_normals(dtype):
    z = reference.normal(torch.arange(N // 4), STATE, dtype)
    assert z.dtype == dtype
    z = z.double()
    for half in (z[0::2], z[1::2]):
        n = len(half)
        assert abs(half.mean()) < 5 / math.sqrt(n)
        assert abs(half.var() - 1) < 5 * math.sqrt(2 / n)
        assert abs((half**3).mean()) < 5 * math.sqrt(15 / n)
        assert abs((half**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert abs((z[0::2] * z[1::2]).mean()) < 5 / math.sqrt(len(z) // 2)
    for quantile in (0.01, 0.25, 0.5, 0.9, 0.999):
        bound = torch.special.ndtri(torch.tensor(quantile, dtype=torch.float64))
        share = (z < bound).double().mean()
        assert abs(share - quantile) < 5 * math.sqrt(quantile * (1 - quantile) / len(z))


# ---------------------------------------------------------------- the operation


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def selu(x):
    return 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x))


FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "selu": selu,
    "softplus": lambda x: math.log1p(math.exp(x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "squared_relu": lambda x: max(x, 0) ** 2,
}


def test_activations_are_the_sixteen():
    assert set(reference.ACTIVATIONS) == set(FORMULAS) and len(FORMULAS) == 16


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_by_its_formula(name):
    x = torch.linspace(-9, 9, 361, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    actual = reference.activation(name, x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_activation_parameters():
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    assert reference.activation("leaky_relu", x, negative_slope=0.25).tolist() == [-0.5, 3]
    assert reference.activation("leaky_relu", x, negative_slope=0.0).tolist() == [0, 3]
    expected = pytest.approx([2.5 * math.expm1(-2), 3])
    assert reference.activation("elu", x, alpha=2.5).tolist() == expected
    y = reference.bias_act_dropout(x, None, 0, "leaky_relu", None, negative_slope=0.25)
    assert y.tolist() == [-0.5, 3]
    assert reference.bias_act_dropout(x, None, 0, "elu", None, alpha=2.5).tolist() == expected


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_operation_element_by_element(mode, p):
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    y = reference.bias_act_dropout(
        x, bias, p, "silu", STATE, residual=residual, bias_dim=1, mode=mode
    )
    a, c, d = reference.constants(p, mode)
    kept = reference.dropout_mask((105,), p, STATE).tolist()
    assert 0 < sum(kept) < 105
    for j, (n, channel, m) in enumerate(itertools.product(range(3), range(5), range(7))):
        v = FORMULAS["silu"](x[n, channel, m].item() + bias[channel].item())
        expected = residual[n, channel, m].item() + (a * v + c if kept[j] else d)
        assert y[n, channel, m].item() == pytest.approx(expected, rel=1e-13)


def test_bias_along_the_last_dimension():
    x = torch.zeros(3, 4)
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = reference.bias_act_dropout(x, bias, 0, "identity", None)
    assert torch.equal(y, bias.expand(3, 4))
    y = reference.bias_act_dropout(x, bias[:3], 0, "identity", None, bias_dim=0)
    assert torch.equal(y, bias[:3, None].expand(3, 4))


@pytest.mark.parametrize("mode", reference.MODES)
def test_evaluation(mode):
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for p in (0, 0.25, 0.5):
        y = reference.bias_act_dropout(x, None, p, "tanh", None, training=False, mode=mode)
        expected = torch.tanh(x) * ((1 - p) if mode == "classic" else 1)
        assert torch.equal(y, expected)
    y = reference.dropout(x, 1, None, training=False, mode=mode)
    assert torch.equal(y, torch.zeros(50) if mode == "classic" else x)


def test_evaluation_in_classic_mode_gives_the_mean():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = reference.dropout(x, 0.5, None, training=False, mode="classic")
    assert y.tolist() == [0.5, 1, 1.5, 2]
    y = reference.dropout(torch.ones(1), 0.1, None, training=False, mode="classic")
    assert y.item() == torch.tensor(58982 / 65536).item()


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("p", [0, 1e-10])
def test_nothing_dropped_changes_no_bit(mode, p):
    x = torch.tensor([-0.0, 0.0, 1.1, -math.inf, 1e-45])
    y = reference.dropout(x, p, None, mode=mode)
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_a_kept_negative_zero_stays_negative(mode):
    y = reference.dropout(torch.full((64,), -0.0), 0.5, STATE, mode=mode)
    assert torch.equal(y.signbit(), reference.dropout_mask((64,), 0.5, STATE))


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("training", [True, False])
def test_keeping_nothing_writes_zeros(mode, training):
    x = torch.tensor([1.0, math.nan, math.inf, -2.0], requires_grad=True)
    y = reference.dropout(x, 1 - 1e-10, None, training=training, mode=mode)
    if training or mode == "classic":
        assert y.tolist() == [0, 0, 0, 0]
        y.sum().backward()
        assert x.grad.tolist() == [0, 0, 0, 0]
    else:
        assert torch.equal(y, x) or y.isnan().sum() == 1


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mode", reference.MODES)
def test_dropped_nan_and_inf_do_not_leak(name, mode):
    keep = reference.dropout_mask((6, 8), 0.5, STATE)
    _, _, d = reference.constants(0.5, mode)
    bias = torch.zeros(8, requires_grad=True)
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.where(keep, torch.tensor(0.7), bad).requires_grad_()
        y = reference.bias_act_dropout(x, bias, 0.5, name, STATE, mode=mode)
        gradients = torch.autograd.grad(y.sum(), (x, bias))
        assert (y[~keep] == torch.tensor(d)).all() and y.isfinite().all()
        assert (gradients[0][~keep] == 0).all() and (gradients[0][keep] > 0).all()
        assert gradients[1].isfinite().all()


def test_kept_nan_stays():
    keep = reference.dropout_mask((64,), 0.5, STATE)
    y = reference.dropout(torch.full((64,), math.nan), 0.5, STATE)
    assert torch.equal(y.isnan(), keep)


@pytest.mark.parametrize("shape", [(16, 40), (2, 5, 8, 8)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_gradients_use_the_mask_of_the_forward_pass(shape, p):
    keep = reference.dropout_mask(shape, p, STATE)
    x = torch.zeros(shape, requires_grad=True)
    bias = torch.zeros(shape[1], requires_grad=True)
    residual = torch.zeros(shape, requires_grad=True)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = reference.bias_act_dropout(x, bias, p, "identity", STATE, residual=residual, bias_dim=1)
    y.backward(upstream)
    expected = torch.where(keep, upstream * torch.tensor(65536 / reference.keep_count(p)), 0)
    assert torch.equal(x.grad, expected)
    assert torch.equal(residual.grad, upstream)
    other_dims = [dim for dim in range(len(shape)) if dim != 1]
    torch.testing.assert_close(bias.grad, expected.sum(other_dims))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mode", reference.MODES)
def test_gradcheck(name, mode):
    generator = torch.Generator().manual_seed(1)
    x, residual = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(3, dtype=torch.float64, generator=generator)

    def operation(x, bias, residual):
        return reference.bias_act_dropout(
            x, bias, 0.3, name, STATE, residual=residual, shared_dims=(0,), mode=mode
        )

    inputs = [tensor.requires_grad_() for tensor in (x, bias, residual)]
    assert torch.autograd.gradcheck(operation, inputs)


@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("residual_dtype", DTYPES)
@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_and_one_rounding(x_dtype, residual_dtype, bias_dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, 64, 33, dtype=torch.float64, generator=generator)
    x, residual = x.to(x_dtype), residual.to(residual_dtype)
    bias = torch.randn(33, dtype=torch.float64, generator=generator).to(bias_dtype)
    y = reference.bias_act_dropout(x, bias, 0.1, "relu", STATE, residual=residual)
    assert y.dtype == torch.promote_types(x_dtype, residual_dtype)

    branch = reference.bias_act_dropout(x.double(), bias, 0.1, "relu", STATE)
    exact = residual.double() + branch
    wide = torch.float64 if x_dtype == torch.float64 else torch.float32
    half_ulp = torch.finfo(y.dtype).eps / 2
    bound = half_ulp * exact.abs() + 2 * torch.finfo(wide).eps * (1 + branch.abs() + exact.abs())
    assert ((y.double() - exact).abs() <= bound).all()
    assert reference.bias_act_dropout(x, bias, 0.1, "relu", STATE).dtype == x_dtype


def test_layout_of_the_input_decides_the_mask():
    x = torch.ones(2, 6, 4, 4)
    for like in (
        x,
        x.to(memory_format=torch.channels_last),
        torch.ones_like(permuted(x.shape, (1, 0, 3, 2))),
    ):
        y = reference.dropout(like, 0.5, STATE)
        mask = reference.dropout_mask(x.shape, 0.5, STATE, like=like)
        assert torch.equal(y, 2.0 * mask)
        y = reference.dropout(like[:, 1:], 0.5, STATE, shared_dims=(0,), mask_offset=12345)
        index = reference.mask_index(like[:, 1:], (0,)) + 12345
        assert torch.equal(y, 2.0 * (reference.draws(index, STATE) < 32768))


def test_bad_arguments():
    x = torch.ones(4, 6)
    with pytest.raises(ValueError, match=r"'swish'.*known are identity, relu"):
        reference.bias_act_dropout(x, None, 0.5, "swish", STATE)
    with pytest.raises(ValueError, match="inverted, classic, alpha"):
        reference.dropout(x, 0.5, STATE, mode="beta")
    with pytest.raises(ValueError, match=r"bias has shape .5,., but x has 6 elements"):
        reference.bias_act_dropout(x, torch.ones(5), 0.5, "relu", STATE)
    with pytest.raises(ValueError, match="bias has shape"):
        reference.bias_act_dropout(x, torch.ones(1), 0.5, "relu", STATE)
    with pytest.raises(IndexError, match="out of range"):
        reference.bias_act_dropout(x, torch.ones(6), 0.5, "relu", STATE, bias_dim=2)
