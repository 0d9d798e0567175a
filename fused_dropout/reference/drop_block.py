"""DropBlock."""

import math

import torch

from fused_dropout.reference.contract import draws, keep_count, memory_order

__all__ = ["drop_block", "drop_block_keep_count", "drop_block_mask", "drop_block_rate"]


def _clamped_blocks(sizes, block_size):
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size has to be odd and at least 1, but got {block_size}")
    return [min(size, block_size) for size in sizes]


def drop_block_keep_count(sizes, p, block_size):
    """How many of the 65536 values of a draw leave a place without a seed.

    `gamma = p * prod(sizes) / prod(k * (size - k + 1))` takes the place of `p`, where `k` is the
    block size, clamped to each of the `sizes` of the spatial dimensions. Source: Ghiasi, Lin and
    Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018, equation 1.
    """
    blocks = _clamped_blocks(sizes, block_size)
    pairs = zip(sizes, blocks, strict=True)
    return keep_count(p * math.prod(sizes) / math.prod(k * (size - k + 1) for size, k in pairs))


def drop_block_mask(x, p, block_size, rng_state, *, shared_channels=False):
    """Which elements of `x` (N, C, spatial...) are kept: bool, of its shape.

    There is a place for a seed wherever a whole block fits. The index of a place is row-major over
    the dimensions of `x` in memory order, without the channels where they share. It is a seed
    unless its draw is below `drop_block_keep_count`; a block begins at each seed.
    """
    sizes = x.shape[2:]
    blocks = _clamped_blocks(sizes, block_size)
    grid = [*x.shape[:2], *(size - k + 1 for size, k in zip(sizes, blocks, strict=True))]
    if shared_channels:
        grid[1] = 1
    j, step = torch.zeros((), dtype=torch.int64, device=x.device), 1
    for dim in reversed(memory_order(x)):
        steps = torch.arange(grid[dim], device=x.device) * step
        j = j + steps.view(-1, *[1] * (len(grid) - 1 - dim))
        step *= grid[dim]
    seeds = draws(j, rng_state) >= drop_block_keep_count(sizes, p, block_size)
    kept = torch.ones(grid[0], grid[1], *sizes, dtype=torch.bool, device=x.device)
    for batch, channel, *place in seeds.nonzero().tolist():
        block = [slice(first, first + k) for first, k in zip(place, blocks, strict=True)]
        kept[(batch, channel, *block)] = False
    return kept.expand(x.shape)


def drop_block_rate(sizes, p, block_size):
    """The mean of `1 - (1 - gamma) ** n` over a map, where `n` blocks can hold a place."""
    holding = torch.ones((), dtype=torch.float64, device="cpu")
    for size, k in zip(sizes, _clamped_blocks(sizes, block_size), strict=True):
        first = torch.arange(size - k + 1, device="cpu").unsqueeze(1)
        place = torch.arange(size, device="cpu")
        holding = holding.unsqueeze(-1) * ((first <= place) & (place < first + k)).sum(0)
    no_seed = drop_block_keep_count(sizes, p, block_size) / 65536
    return float((1 - no_seed**holding).mean())


def drop_block(
    x, p, block_size, rng_state, *, training=True, shared_channels=False, mode="inverted"
):
    """Zeros in blocks, differentiable in `x`.

    In training, inverted mode scales by the share of elements of `x` that are kept; in evaluation,
    classic mode multiplies by the expected share.
    """
    if not training:
        return x * (1 - drop_block_rate(x.shape[2:], p, block_size)) if mode == "classic" else x
    kept = drop_block_mask(x, p, block_size, rng_state, shared_channels=shared_channels)
    count = int(kept.sum())
    v = x.to(torch.promote_types(x.dtype, torch.float32))
    if mode == "inverted":
        v = v * (x.numel() / count if count else 0.0)
    return torch.where(kept, v, 0.0).to(x.dtype)
