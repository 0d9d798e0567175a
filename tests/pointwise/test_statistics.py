"""The masks as random numbers: frequencies, independence within a call and between calls.

Seeds are fixed, so that every bound is met or missed for good. Bounds are five standard deviations
for single figures and seven for the largest of millions.
"""

import itertools
import math

import numpy as np
import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import forward_mask, state, thread_count

PROBABILITIES = (1e-3, 0.003, 0.1, 0.33, 0.999)


@pytest.fixture(autouse=True)
def two_threads(one_thread):
    with thread_count(2):
        yield


def signs(mask):
    """A mask at p = 0.5 as a float32 tensor of +1 and -1."""
    return mask.to(torch.float32).mul_(2).sub_(1)


def kept_in(total, p):
    """How many of `total` elements are kept, in calls of different states and mask offsets."""
    size, kept = 1 << 24, 0
    for call, first in enumerate(range(0, total, size)):
        count = min(size, total - first)
        position = ([count], [1], p, [], [1], first)  # the index goes on, the state changes
        mask = torch.ops.fused_dropout.dropout_mask(state(call // 2, 4 * call), *position)
        kept += int(np.count_nonzero(mask.numpy()))
    return kept


def check_share(total, p):
    q = reference.keep_count(p) / 65536
    z = (kept_in(total, p) - total * q) / math.sqrt(total * q * (1 - q))
    assert abs(z) < 5


@pytest.mark.parametrize("p", PROBABILITIES)
def test_share_of_kept_elements(p):
    """At p = 0.001 a mistake of 2^-16 in the keep probability is five standard deviations."""
    check_share(10**8, p)


@pytest.mark.full
@pytest.mark.parametrize("p", (*PROBABILITIES, 0.5, 0.01, 0.9))
def test_share_of_kept_elements_in_a_thousand_million(p):
    check_share(10**9, p)


# ---------------------------------------------------------------- the scale


@pytest.mark.parametrize("p", [*PROBABILITIES, 0.5, 0.25, 1 / 3, 0.9999])
def test_scale_is_exact(capability, p):
    count = reference.keep_count(p)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        y = FF.dropout(torch.ones(1 << 18, dtype=dtype), p, rng_state=state())
        scale = torch.tensor(65536 / count, dtype=torch.float64).to(dtype)
        assert set(y.tolist()) == {0.0, scale.item()}


@pytest.mark.parametrize("p", PROBABILITIES[:-1])
def test_the_mean_is_that_of_the_input(p):
    """E[y] = x: in float64, over three million elements of varying size."""
    x = torch.rand(3_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = reference.keep_count(p) / 65536
    deviation = (x.square().sum() * (1 - q) / q).sqrt()
    error = (FF.dropout(x, p, rng_state=state()) - x).sum()
    assert abs(error / deviation) < 5


# ---------------------------------------------------------------- within one call


def test_rows_are_uncorrelated():
    """All pairs of 2048 rows, so rows r and r+k for k = 1 ... 2047, and all pairs of columns.

    A mask that repeats has a correlation of one in some pair, however few elements repeat.
    """
    rows, columns = 2048, 2048
    a = signs(FF.dropout_mask((rows, columns), 0.5, state()))
    for matrix in (a, a.t().contiguous()):
        products = matrix @ matrix.t()
        products.fill_diagonal_(0)
        assert products.abs().max() < 7 * math.sqrt(columns)
    # Columns in blocks of every register width, each block of all rows against each other one.
    for block in (4, 8, 16, 32, 64, 128, 256):
        vectors = a.view(rows, columns // block, block).transpose(0, 1).reshape(-1, rows * block)
        products = vectors @ vectors.t()
        products.fill_diagonal_(0)
        assert products.abs().max() < 7 * math.sqrt(rows * block)


@pytest.mark.parametrize("seed", [0, 1, -1])
def test_no_lag_is_correlated(seed):
    """The mask with itself at every distance up to 2^21: words, lanes, rows of any width."""
    n = 1 << 22
    spectrum = torch.fft.rfft(signs(FF.dropout_mask((n,), 0.5, state(seed))), 2 * n)
    products = torch.fft.irfft(spectrum.abs().square(), 2 * n)[1 : n // 2]
    # A sum over n - lag products has that variance.
    deviation = (n - torch.arange(1, n // 2)).sqrt()
    assert float((products / deviation).abs().max()) < 7


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_slots_of_a_group_are_independent(p):
    """The 256 patterns of eight slots have the frequencies of eight independent outcomes."""
    groups = 1 << 21
    mask = FF.dropout_mask((groups, 8), p, state())
    pattern = np.packbits(mask.numpy(), axis=1).ravel()
    seen = np.bincount(pattern, minlength=256)
    q = reference.keep_count(p) / 65536
    ones = np.array([bin(value).count("1") for value in range(256)])
    expected = groups * q**ones * (1 - q) ** (8 - ones)
    usual = expected >= 10
    chi_square = ((seen - expected)[usual] ** 2 / expected[usual]).sum()
    freedom = usual.sum() - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)
    rare = expected[~usual].sum()
    assert abs(seen[~usual].sum() - rare) <= 5 * math.sqrt(rare)


def test_every_slot_and_threshold_is_uniform():
    """Kept shares at sixteen probabilities for each of the eight lanes."""
    groups = 1 << 19
    for p in (k / 17 for k in range(1, 17)):
        kept = FF.dropout_mask((groups, 8), p, state()).sum(0)
        q = reference.keep_count(p) / 65536
        z = (kept - groups * q) / math.sqrt(groups * q * (1 - q))
        assert z.abs().max() < 5


# ---------------------------------------------------------------- calls and states


def largest_correlation(a, b):
    """Of two masks at all shifts against each other, in standard deviations."""
    n = 1 << (len(a) + len(b)).bit_length()
    products = torch.fft.irfft(torch.fft.rfft(signs(a), n) * torch.fft.rfft(signs(b), n).conj(), n)
    # Only shifts that leave an overlap of a thousand have a meaningful deviation.
    shift = torch.arange(n)
    overlap = torch.minimum(
        (len(a) - shift).clamp(min=0) + (shift - n + len(b)).clamp(min=0),
        torch.tensor(min(len(a), len(b))),
    )
    products = products[overlap > 1000] / overlap[overlap > 1000].sqrt()
    return float(products.abs().max())


def test_the_correlation_finds_a_shifted_copy():
    a = FF.dropout_mask((50_000,), 0.5, state())
    assert largest_correlation(a, a[20_000:45_000].clone()) > 100
    assert largest_correlation(a[30_000:].clone(), a[:40_000].clone()) > 50


def test_consecutive_calls_do_not_overlap():
    """Calls of mixed dtypes and sizes in a row, each pair at every shift."""
    torch.manual_seed(0)
    calls = [
        (torch.float32, 100_001),
        (torch.bfloat16, 65_536),
        (torch.float64, 7_777),
        (torch.float16, 100_003),
        (torch.float32, 100_001),
        (torch.bfloat16, 33_333),
    ]
    masks = [FF.dropout(torch.ones(size, dtype=dtype), 0.5) != 0 for dtype, size in calls]
    for a, b in itertools.combinations(masks, 2):
        assert largest_correlation(a, b) < 7


def test_neighbouring_states_do_not_overlap():
    base = 0x123456789ABCDEF
    states = [(base, 0), (base, 4), (base, 8), (base + 1, 0), (base - 1, 4), (base ^ 1 << 32, 0)]
    masks = [forward_mask(torch.empty(60_000), torch.tensor(pair), 0.5) for pair in states]
    for a, b in itertools.combinations(masks, 2):
        assert largest_correlation(a, b) < 7


def test_each_call_takes_64_bits_whatever_its_size():
    """A call of any size and dtype moves the generator on by one state, and no two are equal."""
    generator = torch.Generator().manual_seed(0)
    expected = [tuple(fd.new_rng_state(generator=generator).tolist()) for _ in range(10_000)]
    assert len(set(expected)) == len(expected)
    assert all(offset == 0 for _, offset in expected)
    assert {seed >> 62 for seed, _ in expected} == {-2, -1, 0, 1}
    generator = torch.Generator().manual_seed(0)
    for size, dtype in [(1, torch.float32), (100_000, torch.bfloat16), (8, torch.float64)]:
        FF.dropout(torch.ones(size, dtype=dtype), 0.3, generator=generator)
    assert tuple(fd.new_rng_state(generator=generator).tolist()) == expected[3]


@pytest.mark.full
def test_rows_of_a_large_mask_are_uncorrelated():
    """Rows r and r+k for k = 1 ... 1024 of a mask of 2^28 elements."""
    rows, columns = 1 << 14, 1 << 14
    for first in range(0, rows, 4096):
        a = signs(
            torch.ops.fused_dropout.dropout_mask(
                state(),
                [4096 + 1024, columns],
                [columns, 1],
                0.5,
                [],
                [columns, 1],
                first * columns,
            )
        )
        for block in range(0, 4096, 1024):
            products = a[block : block + 1024] @ a[block : block + 2048].t()
            products[torch.arange(1024), torch.arange(1024)] = 0
            assert products.abs().max() < 7 * math.sqrt(columns)
