"""Attention with dropout for eager calls on the CPU, for a few matrices at a time.

The scores, probabilities and gradients of a few heads fit into the cache, in two buffers that are
used for one group of heads after the other. Backward computes them again instead of storing them.
This is the idea of Dao et al., "FlashAttention", NeurIPS 2022, with full matrices instead of tiles.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fused_dropout._shard import Shard
from fused_dropout.functional._arguments import PLAIN_TENSORS, is_zero, probability_arguments
from fused_dropout.functional._call import state_for
from fused_dropout.functional.pointwise import dropout

# Bytes of a buffer. Two of them, and the third that backward needs, fit into the cache; smaller
# buffers need more calls.
_BUFFER = 2 * 2**20

# Bytes of the scores up to which the calls for groups cost more than the memory that they save.
_SMALL = 2**18


def unfused_attention(query, key, value, mask, p, scale, generator=None, rng_state=None):
    """``dropout(softmax(query @ key^T * scale + mask)) @ value`` by differentiable operators."""
    # Scaling the query costs less than scaling the scores.
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return dropout(scores.softmax(-1), p, generator=generator, rng_state=rng_state) @ value


def calls_torch(query, p, generator=None, rng_state=None):
    """Whether to call torch's function, with torch's masks if anything is dropped.

    Its GPU kernels store neither scores nor probabilities, but they take no generator, no state, no
    tensor for p, and no p of 1.
    """
    if is_zero(p):
        return True
    wants_our_mask = generator is not None or rng_state is not None
    return (
        query.device.type != "cpu"
        and not wants_our_mask
        and not isinstance(p, torch.Tensor)
        and p < 1
    )


def can_attend(query, key, value, mask, p):
    """Whether `attend` can run: a plain eager call, not traced or transformed."""
    if torch.compiler.is_compiling():
        return False
    tensors = (query, key, value) if mask is None else (query, key, value, mask)
    for x in tensors:
        if type(x) not in PLAIN_TENSORS or not x.is_cpu:
            return False
    *batch, length, width = query.shape
    *batch_of_key, keys, width_of_key = key.shape
    *batch_of_value, values, width_of_value = value.shape
    return (
        not torch._C._are_functorch_transforms_active()
        and not is_in_torch_dispatch_mode()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and batch == batch_of_key == batch_of_value
        and width == width_of_key
        and keys == values
        and query.dtype == key.dtype == value.dtype
        and query.dtype.is_floating_point
        and 0 not in (*batch, length, width, keys, width_of_value)
        and 0 < p < 1
        and (mask is None or _can_be_added(mask, query, key))
    )


def _can_be_added(mask, query, key):
    """Whether the mask has the dtype of the scores and can be added to them in place."""
    shape = query.shape[:-1] + key.shape[-2:-1]
    return (
        not mask.requires_grad
        and mask.dtype == query.dtype
        and mask.dim() <= len(shape)
        and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
    )


def attend(query, key, value, mask, p, scale, generator=None, rng_state=None):
    """The same as `unfused_attention`; only if `can_attend`."""
    shape = query.shape[:-1] + key.shape[-2:-1]
    size = query.shape[:-1] + value.shape[-1:]
    if math.prod(shape) * query.element_size() <= _SMALL:
        flat = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
        return _attend_small(*flat, mask, p, scale, shape, generator, rng_state).view(size)
    function = "scaled_dot_product_attention"
    *_, draws = probability_arguments(p, True)
    state = state_for(function, query, draws, None, generator, rng_state)
    # Matrices with gaps would be copied by each product, some of them twice.
    flat = (x.contiguous().view(-1, *x.shape[-2:]) for x in (query, key, value))
    return _Attention.apply(*flat, mask, state, p, scale, shape).view(size)


def _attend_small(query, key, value, mask, p, scale, shape, generator, rng_state):
    """By differentiable operators, as few as possible. ``shape``: as in `_Attention`."""
    keys = key.transpose(1, 2)
    if mask is None:
        scores = torch.bmm(query * scale, keys)
    else:
        if mask.dim() > 2:
            mask = mask.expand(shape).reshape(-1, *shape[-2:])
        scores = torch.baddbmm(mask, query, keys, alpha=scale)
    kept = dropout(scores.softmax(-1), p, generator=generator, rng_state=rng_state)
    return torch.bmm(kept, value)


class _Attention(torch.autograd.Function):
    """Works on batches of matrices; ``shape`` is that of the scores of the call."""

    @staticmethod
    def forward(ctx, query, key, value, mask, state, p, scale, shape):
        ctx.save_for_backward(query, key, value, mask, state)
        ctx.options = p, scale, shape
        result = query.new_empty(*query.shape[:2], value.shape[2])
        for group in _groups(query, key, mask, state, p, scale, shape):
            kept = group.drop(group.probabilities(), inplace=True)
            torch.bmm(kept, value[group.part], out=result[group.part])
        return result

    @staticmethod
    def backward(ctx, grad):
        query, key, value, mask, state = ctx.saved_tensors
        p, scale, shape = ctx.options
        create_graph = torch.is_grad_enabled()
        if create_graph or _is_batched(grad):
            wanted = [x for x in (query, key, value) if x.requires_grad]
            if mask is not None:
                mask = mask.expand(shape).reshape(-1, *shape[-2:])
            with torch.enable_grad():
                result = unfused_attention(query, key, value, mask, p, scale, rng_state=state)
            grads = iter(torch.autograd.grad(result, wanted, grad, create_graph=create_graph))
            grads = [next(grads) if x.requires_grad else None for x in (query, key, value)]
            return *grads, None, None, None, None, None
        of_query, of_key, of_value = (
            torch.empty_like(x) if wanted else None
            for x, wanted in zip((query, key, value), ctx.needs_input_grad[:3], strict=True)
        )
        for group in _groups(query, key, mask, state, p, scale, shape):
            part = group.part
            probabilities = group.probabilities()
            kept = group.drop(probabilities)
            if of_value is not None:
                torch.bmm(kept.transpose(1, 2), grad[part], out=of_value[part])
            if of_query is None and of_key is None:
                continue
            # The buffers of the scores and of the kept probabilities are free again.
            of_kept = torch.bmm(grad[part], value[part].transpose(1, 2), out=group.scores)
            of_scores = torch.ops.aten._softmax_backward_data.out(
                group.drop(of_kept, inplace=True),
                probabilities,
                -1,
                probabilities.dtype,
                grad_input=kept,
            )
            if of_query is not None:
                torch.bmm(of_scores, key[part], out=of_query[part]).mul_(scale)
            if of_key is not None:
                torch.bmm(of_scores.transpose(1, 2), group.query, out=of_key[part])
        return of_query, of_key, of_value, None, None, None, None, None


def _is_batched(grad):
    """Whether the gradient is a batch of gradients, as from ``is_grads_batched``."""
    if torch.compiler.is_compiling():  # compiled autograd: never a batch, and this cannot be traced
        return False
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)


class _Group(NamedTuple):
    """A group of matrices: which part of the batch, its tensors, and two buffers."""

    part: slice
    query: torch.Tensor  # scaled
    key: torch.Tensor
    mask: torch.Tensor | None
    drop: Callable
    scores: torch.Tensor
    buffer: torch.Tensor

    def probabilities(self):
        torch.bmm(self.query, self.key.transpose(1, 2), out=self.scores)
        if self.mask is not None:
            self.scores.add_(self.mask)
        return torch.softmax(self.scores, -1, out=self.buffer)


def _groups(query, key, mask, state, p, scale, shape):
    """Yields groups of as many matrices as fit into a buffer; all of them at once if traced."""
    count, *sizes = query.shape[0], query.shape[1], key.shape[1]
    step = count
    if not torch.compiler.is_compiling():
        step = max(1, min(count, _BUFFER // (math.prod(sizes) * query.element_size())))
    buffers = query.new_empty(2, step, *sizes)
    if mask is not None:
        mask = torch.atleast_2d(mask)
        masks = mask.reshape(-1, *mask.shape[-2:])
        mask_of = torch.arange(len(masks), device=mask.device)
        mask_of = mask_of.view(mask.shape[:-2]).expand(shape[:-2]).flatten()
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        scores, buffer = buffers[:, : part.stop - start]
        shard = Shard((count, *sizes), (start, 0, 0))
        yield _Group(
            part,
            query[part] * scale,
            key[part],
            None if mask is None else masks if len(masks) == 1 else masks[mask_of[part]],
            functools.partial(dropout, p=p, rng_state=state, shard=shard),
            scores,
            buffer,
        )
