"""DropBlock."""

import math

import torch

from fused_dropout.reference.contract import draws, keep_count, memory_order

__all__ = ["drop_block", "drop_block_keep_count", "drop_block_mask", "drop_block_rate"]


def _clamped_blocks(sizes, block_size):
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size is {block_size}, but expected a positive odd number")
    return [min(size, block_size) for size in sizes]


def drop_block_keep_count(sizes, p, block_size):
    """Returns how many of the 65536 values of a draw do not make a position a seed.

    It is `keep_count` of the probability of a seed,
    `gamma = p * prod(sizes) / prod(k * (size - k + 1))`. `sizes` are those of the spatial
    dimensions, and `k` is the block size, limited to each of them.

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018, equation 1.
    """
    blocks = _clamped_blocks(sizes, block_size)
    pairs = zip(sizes, blocks, strict=True)
    return keep_count(p * math.prod(sizes) / math.prod(k * (size - k + 1) for size, k in pairs))


def drop_block_mask(x, p, block_size, rng_state, *, shared_channels=False):
    """Returns the mask of `x` (N, C, spatial...), bool of its shape: True where an element is kept.

    A position can be a seed if a block that starts there fits into the feature map. The mask index
    of these positions is row-major over the dimensions of `x` in memory order, without the channels
    if they are shared. A position is a seed unless its draw is below `drop_block_keep_count`. A
    block is dropped from each seed on.
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
    for batch, channel, *seed in seeds.nonzero().tolist():
        block = [slice(first, first + k) for first, k in zip(seed, blocks, strict=True)]
        kept[(batch, channel, *block)] = False
    return kept.expand(x.shape)


def drop_block_rate(sizes, p, block_size):
    """Returns the expected share of dropped elements.

    It is the mean of `1 - (1 - gamma) ** n` over the elements of a feature map, where `n` is the
    number of blocks that contain an element.
    """
    containing = torch.ones((), dtype=torch.float64, device="cpu")
    for size, k in zip(sizes, _clamped_blocks(sizes, block_size), strict=True):
        first = torch.arange(size - k + 1, device="cpu").unsqueeze(1)
        index = torch.arange(size, device="cpu")
        containing = containing.unsqueeze(-1) * ((first <= index) & (index < first + k)).sum(0)
    no_seed = drop_block_keep_count(sizes, p, block_size) / 65536
    return float((1 - no_seed**containing).mean())


def drop_block(
    x, p, block_size, rng_state, *, training=True, shared_channels=False, mode="inverted"
):
    """Sets blocks of `x` to zero. Differentiable in `x`.

    In training, inverted mode divides by the share of elements of `x` that are kept. In evaluation,
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
