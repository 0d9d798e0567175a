"""Where the mask of a part of a tensor lies in that of the whole."""

import torch

from fused_dropout.functional._arguments import check_tensor, normalized_dims, whole_sizes


def is_empty(function, x, shard):
    """Whether a call has nothing to decide, so that it draws nothing.

    Of a shard the whole counts: a rank whose part is empty draws as the others do, or its generator
    would fall behind theirs.
    """
    if not isinstance(x, torch.Tensor):
        check_tensor(function, "x", x)
    return has_no_elements(x) if shard is None else 0 in whole_sizes(function, x.dim(), shard)


def has_no_elements(x):
    """Under torch.compile a number of elements that depends on data is taken for not zero."""
    if torch.compiler.is_compiling():
        from torch.fx.experimental.symbolic_shapes import guard_or_false

        return guard_or_false(x.numel() == 0)
    return x.numel() == 0


def mask_place(function, x, shard, shared_dims, sizes=None):
    """``mask_strides, mask_offset`` as the operators take them.

    ``sizes``: of the mask, where not x's; its dimensions lie in memory as those of x.
    """
    if shard is None:
        return None, 0
    sizes = x.shape if sizes is None else sizes
    whole = whole_sizes(function, len(sizes), shard)
    _check_fits(function, shard, sizes)
    shared_dims = normalized_dims(function, shared_dims, len(sizes))
    strides, step = [0] * len(sizes), 1
    for dim in reversed(_memory_order(x) if shard.order is None else shard.order):
        if dim not in shared_dims:
            strides[dim] = step
            step = step * whole[dim]
    if isinstance(step, int) and step > 2**63 - 2**16:
        raise ValueError(
            f"{function}: shard has shape {whole}, of which the mask has {step} elements, but "
            "expected at most 2^63 - 2^16"
        )
    offset = 0
    for dim in range(len(sizes)):
        offset = offset + shard.offsets[dim] * strides[dim]
    return strides, offset


def _check_fits(function, shard, sizes):
    for dim in range(len(sizes)):
        space = shard.shape[dim] - shard.offsets[dim]
        if sizes[dim] > space:
            raise ValueError(
                f"{function}: shard has shape {shard.shape} and offsets {shard.offsets}, which "
                f"leaves {space} elements along dimension {dim}, but the tensor has {sizes[dim]}"
            )


def _memory_order(x):
    """The dimensions of the whole that x is a part of, by descending stride.

    Of two with one stride the inner one has a single element, in the part: the whole may have more
    along it, and then it matters. Two single elements lie in the order of their dimensions.
    """
    sizes, strides = x.shape, x.stride()
    if _overlaps(sizes, strides):
        strides = torch.empty_like(x, device="meta").stride()
    order = []
    for dim in range(len(sizes)):
        place = len(order)
        while place > 0 and _is_inner(sizes, strides, order[place - 1], dim):
            place -= 1
        order.insert(place, dim)
    return order


def _overlaps(sizes, strides):
    """Whether the strides give no order, as those of an expanded tensor."""
    for dim in range(len(sizes)):
        if sizes[dim] > 1:
            if strides[dim] == 0:
                return True
            for other in range(dim):
                if sizes[other] > 1 and strides[other] == strides[dim]:
                    return True
    return False


def _is_inner(sizes, strides, dim, other):
    """Whether ``dim`` lies within ``other``, a later dimension."""
    if strides[dim] != strides[other]:
        return strides[dim] < strides[other]
    return sizes[dim] == 1 and sizes[other] != 1
