"""The reference's generator against published known answers."""

import pytest
import torch

from fused_dropout import reference
from tests.reference.known import ENGINE, FIRST_DRAWS, KNOWN_ANSWERS, STATE, halves_of, words_of


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
