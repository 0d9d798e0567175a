"""DropBlock: dropout of contiguous regions of feature maps."""

import torch

from fused_dropout._extension import _C
from fused_dropout.functional._arguments import (
    check_mode,
    check_tensor,
    is_plain,
    is_zero,
    probability,
    probability_arguments,
    state_for,
)
from fused_dropout.functional._place import has_no_elements


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
    """DropBlock: drops blocks of ``block_size`` elements along every spatial dimension.

    Neighbours in a feature map tell much the same, so that dropping single elements hides little
    from the layers behind; dropping a whole region does. Blocks are anywhere that they fit as a
    whole, and may overlap. What is kept is scaled by the share of ``x`` that is kept.

    Equivalent PyTorch code for (N, C, H, W), with ``k`` the block size, at most the map's::

        seeds = torch.rand(N, C, H - k + 1, W - k + 1) < gamma
        gamma = p / k**2 * (H * W) / ((H - k + 1) * (W - k + 1))
        dropped = F.max_pool2d(F.pad(seeds.float(), (k - 1,) * 4), k, stride=1)
        kept = dropped == 0
        torch.where(kept, x * kept.numel() / kept.sum(), 0)  # mode="inverted"
        torch.where(kept, x, 0)  # mode="classic"; x * (1 - drop_block_rate) when not training

    The mask is neither stored nor made: the kernels find the few seeds by the random-number
    contract, once to count what is kept and once to apply it, and backward does so again. Besides
    its result a call keeps 24 bytes. Unlike above, a NaN or an infinity in a block is dropped too.

    Args:
        x: feature maps of shape (N, C, L), (N, C, H, W) or (N, C, D, H, W), contiguous or
            channels-last, which is processed as it lies; float32, float64, float16 or bfloat16.
        p: probability to drop. Blocks overlap, so that what is really dropped is less,
            :func:`drop_block_rate`. A 0-d float64 CPU tensor can take new values under
            ``torch.compile`` without a new graph, which is how to schedule it there.
        block_size: of a block along each spatial dimension, odd; clamped to the map.
        training: without it, inverted mode returns ``x`` itself.
        shared_channels: whether one mask is for all channels of an example.
        mode: "inverted" scales in training, "classic" in evaluation.
        generator: a ``torch.Generator`` to draw from; not under ``torch.compile``.
        rng_state: replays the call that used this state (:func:`fused_dropout.new_rng_state`).

    Returns:
        Tensor: of ``x``'s shape, dtype and (if it is dense) strides. Where all is dropped, zeros.

    Raises:
        ValueError, TypeError, RuntimeError: naming the argument and what it was. Nothing is
            computed then, and no random number is drawn.

    The mask: index ``j`` counts the places of seeds, (N, C, H - k + 1, W - k + 1), in the order of
    ``x`` in memory, without C where channels share. A place is a seed where the draw of ``j`` is
    not below ``round((1 - gamma) * 65536)``, so that gamma acts in steps of 2^-16. Blocks begin at
    their seeds.

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
    options = (block_size, shared_channels, mode, training)
    if is_plain(x):
        return _C.drop_block(function, x, p, *options, generator, rng_state)
    if not torch.compiler.is_compiling():
        # Before a state is drawn; tracing checks by itself, before anything runs.
        _C.check_drop_block(function, x, p, *options, rng_state)
    kept = None
    # Here p = 1 decides nothing, so that a state is drawn for it: unlike for a half of it, none is.
    state = state_for(function, x, p / 2, training, generator, rng_state)
    arguments = (*probability_arguments(p), block_size, shared_channels)
    if training and mode == "inverted":
        kept = torch.ops.fused_dropout.drop_block_kept(x, state, *arguments)
    return torch.ops.fused_dropout.drop_block(x, state, kept, None, *arguments, mode, training)


def drop_block_rate(sizes, p, block_size):
    """The share of elements that :func:`drop_block` drops in expectation, on maps of these sizes.

    An element is dropped if any of the blocks that it can lie in has a seed. Blocks overlap, so
    that this is less than ``p``, and the more so the larger ``p`` is: for ``p = 0.2`` and blocks of
    7, between 0.173 and 0.180 on maps from 14 to 56. Equivalent::

        gamma = p * prod(sizes) / prod(k * (size - k + 1) for size in sizes)
        mean(1 - (1 - gamma) ** blocks)  # `blocks`: how many hold an element

    with ``gamma`` as it is applied, in steps of 2^-16.

    Args:
        sizes: of the one to three spatial dimensions of a map.
        p: the probability given to :func:`drop_block`.
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
