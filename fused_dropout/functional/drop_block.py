"""DropBlock: dropout of contiguous regions of feature maps."""

import torch

from fused_dropout._extension import _C
from fused_dropout.functional import _unfused
from fused_dropout.functional._arguments import (
    check_mode,
    check_tensor,
    is_zero,
    probability,
    probability_arguments,
)
from fused_dropout.functional._call import Operator, call
from fused_dropout.functional._shard_layout import has_no_elements

__all__ = ["drop_block", "drop_block_rate"]


def check_block_size(function, block_size):
    if isinstance(block_size, bool) or not isinstance(block_size, int):
        raise TypeError(
            f"{function}: block_size is {block_size!r}, but expected an odd number from 1 on"
        )
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(
            f"{function}: block_size is {block_size}, but expected an odd number from 1 on"
        )
    return block_size


def drop_block(
    x,
    p=0.1,
    block_size=7,
    training=True,
    *,
    shared_channels=False,
    mode="inverted",
    generator=None,
    rng_state=None,
):
    """Drops contiguous blocks with ``block_size`` elements along each spatial dimension.

    Neighbouring elements of a feature map carry similar information, so dropping single elements
    hides little from the next layers; dropping a region does. Blocks lie anywhere inside the map
    and may overlap. The remaining elements are divided by the share of ``x`` that is kept.

    Equivalent PyTorch code for (N, C, H, W), with ``k`` the block size, at most the map's::

        seeds = torch.rand(N, C, H - k + 1, W - k + 1) < gamma
        gamma = p / k**2 * (H * W) / ((H - k + 1) * (W - k + 1))
        dropped = F.max_pool2d(F.pad(seeds.float(), (k - 1,) * 4), k, stride=1)
        kept = dropped == 0
        torch.where(kept, x * kept.numel() / kept.sum(), 0)  # mode="inverted"
        torch.where(kept, x, 0)  # mode="classic"; x * (1 - drop_block_rate) when not training

    The mask is never in memory: the kernels find the few seeds by the random-number contract, once
    to count the kept elements and once to apply the mask, and once more in backward. Besides its
    result a call keeps 24 bytes. Unlike in the code above, a NaN or an infinity in a block is
    dropped too.

    Args:
        x: feature maps of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), contiguous or
            channels-last, which needs no copy; float32, float64, float16 or bfloat16.
        p: probability to drop. Blocks overlap, so the share that is really dropped is less, see
            `drop_block_rate`. A 0-d float64 CPU tensor can take new values under
            ``torch.compile`` without a new graph, for example to schedule ``p``.
        block_size: size of a block along each spatial dimension, odd; clamped to the map.
        training: if False, inverted mode returns ``x`` itself.
        shared_channels: use one mask for all channels of an example.
        mode: "inverted" scales in training, "classic" in evaluation.
        generator: a ``torch.Generator`` to draw from; not allowed under ``torch.compile``.
        rng_state: replays the call that used this state (`fused_dropout.new_rng_state`).

    Returns:
        Tensor: with the shape, dtype and (if ``x`` is dense) strides of ``x``. If every element is
        dropped, zeros.

    Raises:
        ValueError, TypeError, RuntimeError: the message names the argument, what was expected and
            what was given. Nothing has been computed, and no random number drawn.

    The mask: index ``j`` counts the positions of the grid of seeds, (N, C, H - k + 1, W - k + 1),
    in the order of the dimensions of ``x`` in memory, without C if channels share. A position is a
    seed if the draw of ``j`` is at least ``round((1 - gamma) * 65536)``, so gamma acts in steps of
    2^-16. A block begins at its seed.

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018.
    """
    function = "drop_block"
    p = probability(p, function)
    check_block_size(function, block_size)
    check_mode(function, mode)
    check_tensor(function, "x", x)
    if not 3 <= x.dim() <= 5:
        raise RuntimeError(
            f"{function}: x has {x.dim()} dimensions, but expected 3 to 5: (N, C, L), "
            "(N, C, H, W) or (N, C, D, H, W)"
        )
    if (not training and mode == "inverted") or is_zero(p) or has_no_elements(x):
        return x
    if x.is_nested:
        raise TypeError(f"{function}: x is a nested tensor, but expected maps of one size")
    kept = strides = None  # not arguments of this function
    p_number, p_tensor, _ = probability_arguments(p, training)
    # Nothing is drawn for a p_tensor of 0 or 1. Blocks need random numbers for p = 1 too.
    half = None if p_tensor is None else p_tensor / 2
    return call(
        DROP_BLOCK,
        function,
        (x,),
        (kept, strides, p_number, p_tensor, block_size, shared_channels, mode, training),
        bool(training),
        half,
        (),
        None,
        generator,
        rng_state,
        None,
    )


def _count_and_apply(x, state, kept, strides, *options):
    *counting, mode, training = options
    if training and mode == "inverted":
        kept = torch.ops.fused_dropout.drop_block_kept(x, state, *counting)
    return torch.ops.fused_dropout.drop_block(x, state, kept, strides, *options)


DROP_BLOCK = Operator("drop_block", _unfused.drop_block, _count_and_apply, has_mask=False)


def drop_block_rate(sizes, p, block_size):
    """Returns the expected share of elements that `drop_block` drops on maps of these sizes.

    An element is dropped if any of the blocks that can contain it has a seed. Blocks overlap, so
    the share is less than ``p``, and falls further below it as ``p`` grows: for ``p = 0.2`` and
    blocks of 7, between 0.173 and 0.180 on maps from 14 to 56. Equivalent code::

        gamma = p * prod(sizes) / prod(k * (size - k + 1) for size in sizes)
        mean(1 - (1 - gamma) ** blocks)  # `blocks`: how many contain an element

    where ``gamma`` is rounded to the steps of 2^-16 in which it acts.

    Args:
        sizes: sizes of the one to three spatial dimensions of a map.
        p: the probability given to `drop_block`.
        block_size: odd; clamped to the map.

    Returns:
        float: from 0 to 1.
    """
    function = "drop_block_rate"
    p = float(probability(p, function))
    check_block_size(function, block_size)
    sizes = tuple(sizes)
    if not 1 <= len(sizes) <= 3 or any(size < 1 for size in sizes):
        raise ValueError(f"{function}: sizes is {sizes}, but expected one to three sizes from 1 on")
    return _C.drop_block_rate(sizes, p, block_size)
