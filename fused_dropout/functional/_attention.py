"""Attention with dropout for eager calls on the CPU: the same chain, with a backward of its own.

Autograd's own backward allocates memory of the size of the scores at every step, and on the CPU
fresh memory costs as much as the arithmetic.
"""

import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fused_dropout.functional._arguments import state_for
from fused_dropout.functional.pointwise import dropout

_TYPES = (torch.Tensor, torch.nn.Parameter)


def chain(query, key, value, mask, p, scale, generator=None, rng_state=None):
    """``dropout(softmax(query @ key^T * scale + mask)) @ value``, which anything can differentiate.

    Args:
        mask: a summand, or None.
    """
    # The smaller of the two factors is scaled.
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return dropout(scores.softmax(-1), p, generator=generator, rng_state=rng_state) @ value


def is_eager(query, key, value, mask, p):
    """Whether :func:`attend` can do it: nobody looks on who has to see the chain or its values."""
    tensors = (query, key, value) if mask is None else (query, key, value, mask)
    return (
        not torch.compiler.is_compiling()
        and all(type(x) in _TYPES and x.device.type == "cpu" for x in tensors)
        and not torch._C._are_functorch_transforms_active()
        and not is_in_torch_dispatch_mode()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and forward_ad._current_level < 0
        and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        and query.shape[-1] == key.shape[-1]
        and key.shape[-2] == value.shape[-2]
        and query.dtype == key.dtype == value.dtype
        and query.dtype.is_floating_point
        and 0 not in query.shape + key.shape + value.shape
        and 0 < p < 1
        and (mask is None or _is_small(mask, query, key))
    )


def _is_small(mask, query, key):
    """Whether the mask has the scores' dtype and can be added to them in place."""
    shape = query.shape[:-1] + key.shape[-2:-1]
    return (
        not mask.requires_grad
        and mask.dtype == query.dtype
        and mask.dim() <= len(shape)
        and all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
    )


def attend(query, key, value, mask, p, scale, generator=None, rng_state=None):
    """The same as :func:`chain`, where :func:`is_eager`."""
    state = state_for("scaled_dot_product_attention", query, p, True, generator, rng_state)
    flat = (x.reshape(-1, *x.shape[-2:]) for x in (query, key, value))
    result = _Attention.apply(*flat, mask, state, p, scale, query.shape[:-1] + key.shape[-2:-1])
    return result.view(query.shape[:-1] + value.shape[-1:])


class _Attention(torch.autograd.Function):
    """Batches of matrices; ``shape`` is that of the scores as the mask knows them."""

    @staticmethod
    def forward(ctx, query, key, value, mask, state, p, scale, shape):
        scores = _product(query, key.transpose(1, 2), scale)
        if mask is not None:
            scores.view(shape).add_(mask)
        probabilities = scores.softmax(-1)
        kept = dropout(probabilities, p, rng_state=state)
        ctx.save_for_backward(query, key, value, mask, state, probabilities, kept)
        ctx.options = p, scale, shape
        return torch.bmm(kept, value)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, mask, state, probabilities, kept = ctx.saved_tensors
        p, scale, shape = ctx.options
        if torch.is_grad_enabled():  # create_graph
            wanted = [x for x in (query, key, value) if x.requires_grad]
            if mask is not None:
                mask = mask.expand(shape).reshape(probabilities.shape)
            result = chain(query, key, value, mask, p, scale, rng_state=state)
            grads = iter(torch.autograd.grad(result, wanted, grad, create_graph=True))
            grads = [next(grads) if x.requires_grad else None for x in (query, key, value)]
            return *grads, None, None, None, None, None
        grad_query = grad_key = grad_value = None
        if ctx.needs_input_grad[2]:
            grad_value = torch.bmm(kept.transpose(1, 2), grad)
        if any(ctx.needs_input_grad[:2]):
            grad_scores = torch.bmm(grad, value.transpose(1, 2))
            dropout(grad_scores, p, inplace=True, rng_state=state)
            grad_scores = torch._softmax_backward_data(
                grad_scores, probabilities, -1, probabilities.dtype
            )
            if ctx.needs_input_grad[0]:
                grad_query = _product(grad_scores, key, scale)
            if ctx.needs_input_grad[1]:
                grad_key = _product(grad_scores.transpose(1, 2), query, scale)
        return grad_query, grad_key, grad_value, None, None, None, None, None


def _product(a, b, scale):
    """``a @ b * scale`` in one pass."""
    return torch.baddbmm(a.new_zeros(()), a, b, beta=0, alpha=scale)
