"""Attention whose dropout stores no mask."""

import torch
import torch.nn.functional as F

from fused_dropout.functional._arguments import is_zero, probability
from fused_dropout.functional.pointwise import dropout


def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    *,
    generator=None,
    rng_state=None,
):
    """``torch.nn.functional.scaled_dot_product_attention`` with this package's dropout.

    Equivalent PyTorch code::

        scores = query @ key.transpose(-2, -1) * scale + attn_mask
        F.dropout(scores.softmax(-1), dropout_p) @ value

    Without dropout it is torch's own, which on most devices never writes the probabilities to
    memory. With it they are written, since dropout acts on them: on the CPU torch does so too, and
    keeps a mask beside them; on a GPU torch's own function is the better choice for long sequences,
    with masks of its own.

    Args:
        query: shape (..., heads, L, E); floating point.
        key: shape (..., heads, S, E).
        value: shape (..., heads, S, V).
        attn_mask: broadcasts to (..., heads, L, S); added to the scores, or, if bool, True where a
            key takes part. A query with no key gives zeros.
        dropout_p: probability to drop a probability; as in torch it acts in every mode, so pass 0
            in evaluation.
        is_causal: a query sees the keys up to its own place; instead of a mask.
        scale: of the scores; ``1 / sqrt(E)`` if None.
        enable_gqa: key and value may have fewer heads, each serving a group of the query's.
        generator, rng_state: see :func:`fused_dropout.functional.dropout`. The mask is that of
            ``dropout_mask(probabilities.shape, dropout_p, rng_state)``.

    Returns:
        Tensor: shape (..., heads, L, V).

    Raises:
        ValueError, TypeError, RuntimeError: as for torch's function and :func:`dropout`.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017.
    """
    p = probability(dropout_p)
    if is_zero(p):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        if attn_mask is not None:
            raise RuntimeError(
                "scaled_dot_product_attention: is_causal is True and attn_mask is given, but only "
                "one of them can be"
            )
        attn_mask = _causal(query, key)
    if enable_gqa:
        key, value = (_repeated(name, x, query) for name, x in (("key", key), ("value", value)))
    if scale is None:
        scale = query.shape[-1] ** -0.5
    empty = None
    if attn_mask is not None:
        attn_mask, empty = _additive(attn_mask, query.dtype, may_be_empty=not is_causal)
    # The smaller of the two factors is scaled.
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = _sum(scores, attn_mask)
    kept = dropout(scores.softmax(-1), p, generator=generator, rng_state=rng_state)
    result = kept @ value
    return result if empty is None else result.masked_fill(empty, 0)


def _sum(scores, mask):
    """Into the memory of the scores, which nobody else needs, as new memory costs more than a sum.

    Not where compilers see to that themselves, nor where vmap would have to make a batch of them.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._functorch.is_batchedtensor(mask)
        or torch.result_type(scores, mask) != scores.dtype
        or torch.broadcast_shapes(scores.shape, mask.shape) != scores.shape
    ):
        return scores + mask
    return scores.add_(mask)


def _causal(query, key):
    shape = query.shape[-2], key.shape[-2]
    return torch.ones(shape, dtype=torch.bool, device=query.device).tril()


def _additive(mask, dtype, may_be_empty):
    """The mask as a summand, and which queries have no key (of shape (..., L, 1)).

    Those get a mask of zeros, as a softmax of nothing but -inf would be NaN, in backward too.
    """
    if mask.dtype != torch.bool:
        if not may_be_empty:
            return mask, None
        empty = mask.isneginf().all(-1, keepdim=True)
        return mask.masked_fill(empty, 0), empty
    empty = None
    if may_be_empty:
        empty = ~mask.any(-1, keepdim=True)
        mask = mask | empty
    zero, infinity = (
        torch.full((), value, dtype=dtype, device=mask.device) for value in (0.0, float("-inf"))
    )
    return torch.where(mask, zero, infinity), empty


def _repeated(name, x, query):
    heads, wanted = x.shape[-3], query.shape[-3]
    if heads == 0 or wanted % heads:
        raise RuntimeError(
            f"scaled_dot_product_attention: {name} has {heads} heads, but expected a divisor of "
            f"query's {wanted}"
        )
    return x.repeat_interleave(wanted // heads, -3)
