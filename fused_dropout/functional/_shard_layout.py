"""Where the mask of a shard lies in the mask of the full tensor."""

import torch
from torch.compiler import is_compiling

from fused_dropout.functional._arguments import check_tensor, full_sizes, normalized_dims


def is_empty(function, x, shard):
    """Whether a call has no elements to drop, so that it draws nothing.

    For a shard the full tensor counts: a rank whose part is empty draws as the others do, so that
    the generators of all ranks stay equal.
    """
    if not isinstance(x, torch.Tensor):
        check_tensor(function, "x", x)
    if shard is None:
        return has_no_elements(x)
    return not x.is_nested and 0 in full_sizes(function, x.dim(), shard)


def has_no_elements(x):
    """Under ``torch.compile`` a number of elements that depends on data counts as not zero."""
    if is_compiling():
        if x.is_nested:
            return False
        from torch.fx.experimental.symbolic_shapes import guard_or_false

        return guard_or_false(x.numel() == 0)
    return x.numel() == 0


def shard_layout(function, x, shard, shared_dims, sizes_of=None, full_rows=False):
    """``mask_strides, mask_offset`` as the operators take them.

    ``sizes_of``: function from ``x`` to the sizes of the mask, whose dimensions lie in memory as
    those of ``x``; the sizes of ``x`` if None. ``full_rows``: whether the part needs full rows.
    """
    check_tensor(function, "x", x)
    sizes = x.shape if sizes_of is None else sizes_of(x)
    full = full_sizes(function, len(sizes), shard)
    _check_fits(function, shard, sizes)
    if full_rows and sizes[-1] != full[-1]:
        raise ValueError(
            f"{function}: shard has {full[-1]} elements along dimension -1, but x has "
            f"{sizes[-1]}: a part needs full rows to be normalised"
        )
    shared_dims = normalized_dims(function, shared_dims, len(sizes))
    strides, step = [0] * len(sizes), 1
    for dim in reversed(_memory_order(x) if shard.order is None else shard.order):
        if dim not in shared_dims:
            strides[dim] = step
            step = step * full[dim]
    if isinstance(step, int) and step > 2**63 - 2**16:
        raise ValueError(
            f"{function}: shard has shape {full}, of which the mask has {step} elements, but "
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
    """The dimensions of the full tensor, of which x is a part, by descending stride.

    If two dimensions have the same stride, the inner one has a single element in the part. The full
    tensor may have more elements along it, so its position matters. Two dimensions with a single
    element each keep their order.
    """
    sizes, strides = x.shape, x.stride()
    if _overlaps(sizes, strides):
        strides = torch.empty_like(x, device="meta").stride()
    order = []
    for dim in range(len(sizes)):
        position = len(order)
        while position > 0 and _is_inner(sizes, strides, order[position - 1], dim):
            position -= 1
        order.insert(position, dim)
    return order


def _overlaps(sizes, strides):
    """Whether the strides define no order, as those of an expanded tensor."""
    for dim in range(len(sizes)):
        if sizes[dim] > 1:
            if strides[dim] == 0:
                return True
            for other in range(dim):
                if sizes[other] > 1 and strides[other] == strides[dim]:
                    return True
    return False


def _is_inner(sizes, strides, dim, other):
    """Whether ``dim`` is inner to ``other``, a later dimension."""
    if strides[dim] != strides[other]:
        return strides[dim] < strides[other]
    return sizes[dim] == 1 and sizes[other] != 1
