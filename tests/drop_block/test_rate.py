"""How much DropBlock drops, and that means are kept."""

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.drop_block.calls import STATE, masks
from tests.helpers import state

SIZES = [7, 10, 14, 20, 28, 40, 56]
PROBABILITIES = [0.05, 0.1, 0.2]


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("size", SIZES)
def test_the_realised_rate(size, p):
    """Within 0.002 of the analytic one; there are as many maps as its spread needs."""
    rate = FF.drop_block_rate((size, size), p, 7)
    maps = 2 * 10**7 // size**2
    spread = (rate * (1 - rate) * 49 / (maps * size**2)) ** 0.5
    assert 3 * spread < 0.002
    y = FF.drop_block(torch.ones(maps, 1, size, size), p, mode="classic", rng_state=STATE)
    assert abs(1 - y.mean(dtype=torch.float64) - rate) < 0.002


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("sizes", [(7,), (56,), (28, 7), (3, 56), (7, 7, 7), (14, 20, 9)], ids=str)
def test_other_maps(sizes, p):
    for block_size in (3, 7):
        rate = FF.drop_block_rate(sizes, p, block_size)
        assert rate == pytest.approx(reference.drop_block_rate(sizes, p, block_size), abs=1e-12)
        positions = torch.Size(sizes).numel()
        count = 3 * 10**6 // positions
        kept, _ = masks(torch.empty(count, 1, *sizes), p, block_size)
        together = min(positions, block_size ** len(sizes))
        spread = (rate * (1 - rate) * together / (count * positions)) ** 0.5
        assert abs(1 - kept.double().mean() - rate) < 4 * spread


@pytest.mark.parametrize("size", SIZES)
def test_the_steps_of_gamma_matter_little(size):
    """Of a probability that is not in steps of 2^-16, the rate would be nearly the same."""
    for p in PROBABILITIES:
        k = min(7, size)
        gamma = p / k**2 * size**2 / (size - k + 1) ** 2
        first, position = torch.arange(size - k + 1).unsqueeze(1), torch.arange(size)
        holding = ((first <= position) & (position < first + k)).sum(0).double()
        exact = (1 - (1 - gamma) ** torch.outer(holding, holding)).mean()
        assert abs(FF.drop_block_rate((size, size), p, 7) - exact) < 5e-4


def test_known_rates():
    """Less than p, as blocks overlap; on a map of one block it is p."""
    assert FF.drop_block_rate((7, 7), 0.25, 7) == 0.25
    assert FF.drop_block_rate((5, 3), 0.25, 7) == 0.25
    for size in (14, 28, 56):
        assert 0.173 < FF.drop_block_rate((size, size), 0.2, 7) < 0.186
        assert 0.093 < FF.drop_block_rate((size, size), 0.1, 7) < 0.1
    assert FF.drop_block_rate((9, 9), 0.0, 3) == 0
    assert FF.drop_block_rate((9, 9), 0.5, 1) == 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_inverted_keeps_the_mean_exactly(shared):
    """Of ones, in every call: the scale is of what was kept."""
    for seed in range(5):
        x = torch.ones(8, 4, 28, 28, dtype=torch.float64)
        y = FF.drop_block(x, 0.2, shared_channels=shared, rng_state=state(seed))
        assert y.mean() == pytest.approx(1, abs=1e-12)
        values = y.unique()
        assert len(values) == 2 and values[0] == 0


def test_classic_training_and_evaluation_agree():
    generator = torch.Generator().manual_seed(0)
    x = 1 + 0.1 * torch.randn(20000, 1, 14, 14, generator=generator)
    for p in (0.1, 0.3):
        trained = FF.drop_block(x, p, mode="classic", rng_state=STATE).double().mean()
        evaluated = FF.drop_block(x, p, training=False, mode="classic").double().mean()
        assert abs(trained - evaluated) < 0.003


def test_the_share_is_of_the_whole_tensor():
    x = torch.ones(2, 2, 7, 7)
    rng_state = next(
        state(seed)
        for seed in range(100)
        if reference.drop_block_mask(x, 0.25, 7, (seed, 8)).float().mean() == 0.75
    )
    y = FF.drop_block(x, 0.25, rng_state=rng_state)
    assert sorted(y.unique().tolist()) == [0, pytest.approx(4 / 3)]
