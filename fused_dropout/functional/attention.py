"""Attention whose dropout stores no mask."""

import torch
import torch.nn.functional as F

from fused_dropout.functional._arguments import (
    check_generator,
    check_kind,
    check_layout,
    check_tensor,
    is_zero,
    probability,
)
from fused_dropout.functional._attention import attend, calls_torch, can_attend, unfused_attention

__all__ = ["scaled_dot_product_attention"]


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

    Without dropout it calls torch's function. With 0 < ``dropout_p`` < 1 it depends on the device:

    - CPU: scores and probabilities are computed for a few heads at a time. They are never in memory
      for all heads, and are not saved for backward; torch's function stores both, and a mask.
      For scores of up to 256 KiB, compiled code, autocast and ``torch.func`` it stores scores and
      probabilities, and no mask.
    - Other devices: it calls torch's function, whose CUDA kernels do not store them either. The
      masks are then torch's, drawn from the device's generator, and torch's limits hold, for
      example for higher derivatives. With ``rng_state``, ``generator``, or in compiled code a
      tensor for ``dropout_p``, it runs the unfused operators above with the masks of this package,
      and stores scores and probabilities.

    Nested tensors go to torch's function on every device.

    Args:
        query: shape (..., heads, L, E); floating point.
        key: shape (..., heads, S, E).
        value: shape (..., heads, S, V).
        attn_mask: broadcasts to (..., heads, L, S). A bool mask is True for keys that take part;
            any other is added to the scores. A query without keys gives zeros.
        dropout_p: probability to drop an attention probability; as in torch it acts in every mode,
            so pass 0 in evaluation.
        is_causal: each query attends to the keys up to its own position; excludes ``attn_mask``.
        scale: factor of the scores; ``1 / sqrt(E)`` if None.
        enable_gqa: allow key and value to have fewer heads, each for a group of query heads.
        generator, rng_state: see `fused_dropout.functional.dropout`. The mask is that of
            ``dropout_mask(probabilities.shape, dropout_p, rng_state)``, on CUDA too.

    Returns:
        Tensor: shape (..., heads, L, V).

    Raises:
        ValueError, TypeError, RuntimeError: as for torch's function and
            `fused_dropout.functional.dropout`.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017.
    """
    name = "scaled_dot_product_attention"
    for argument, x in (("query", query), ("key", key), ("value", value)):
        check_tensor(name, argument, x)
    p = probability(dropout_p, name, "dropout_p")
    nested = query.is_nested or key.is_nested or value.is_nested
    if nested:
        _check_nested(p, generator, rng_state)
    elif not is_zero(p):
        _check(query, key, value, attn_mask, is_causal, enable_gqa)
        check_generator(name, generator)
        if rng_state is not None:
            check_tensor(name, "rng_state", rng_state)
        if attn_mask is not None and attn_mask.dtype != torch.bool:
            attn_mask = attn_mask.to(query.dtype)
    if nested or calls_torch(query, p, generator, rng_state):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, float(p), is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if is_causal:
        attn_mask = _causal(query, key)
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    if scale is None:
        scale = query.shape[-1] ** -0.5
    empty = None
    if attn_mask is not None:
        attn_mask, empty = _additive(attn_mask, query.dtype, may_be_empty=not is_causal)
    options = attn_mask, p, scale, generator, rng_state
    if not can_attend(query, key, value, attn_mask, p):
        result = unfused_attention(query, key, value, *options)
        return result if empty is None else result.masked_fill(empty, 0)
    result = attend(query, key, value, *options)
    return result.masked_fill(empty, 0) if empty is not None and empty.any() else result


def _check_nested(p, generator, rng_state):
    for name, value in (("generator", generator), ("rng_state", rng_state)):
        if value is not None and not is_zero(p):
            raise ValueError(
                f"scaled_dot_product_attention: {name} is given, but query, key and value are "
                "nested tensors, for which torch draws the mask"
            )


def _check(query, key, value, attn_mask, is_causal, enable_gqa):
    """Checks before a state is drawn."""
    name = "scaled_dot_product_attention"
    for argument, x in (("query", query), ("key", key), ("value", value)):
        check_kind(name, argument, x)
    if attn_mask is not None:
        check_layout(name, "attn_mask", attn_mask)
    if is_causal and attn_mask is not None:
        raise RuntimeError(
            f"{name}: is_causal is True and attn_mask is given, but only one of them can be"
        )
    batches = [x.shape[:-2] for x in (query, key, value)]
    if enable_gqa:
        heads = query.shape[-3]
        batches = [(*batch[:-1], heads) for batch in batches]
        for argument, x in (("key", key), ("value", value)):
            if x.shape[-3] == 0 or heads % x.shape[-3]:
                raise RuntimeError(
                    f"{name}: {argument} has {x.shape[-3]} heads, but expected a divisor of "
                    f"query's {heads}"
                )
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            f"{name}: value has {value.shape[-2]} positions, but expected {key.shape[-2]} as in key"
        )
    batch = batches[0]
    if not batch == batches[1] == batches[2]:
        batch = torch.broadcast_shapes(*batches)
    if attn_mask is not None and not torch.compiler.is_compiling():
        scores = (*batch, query.shape[-2], key.shape[-2])
        sizes = zip(attn_mask.shape[::-1], scores[::-1], strict=False)
        if attn_mask.dim() > len(scores) or any(m not in (1, n) for m, n in sizes):
            raise RuntimeError(
                f"{name}: attn_mask has shape {tuple(attn_mask.shape)}, which does not broadcast "
                f"to {scores}, that of the scores"
            )
    dtypes = (torch.bool, torch.float32, query.dtype)
    if attn_mask is not None and attn_mask.dtype not in dtypes:
        raise RuntimeError(
            f"{name}: attn_mask has dtype {attn_mask.dtype}, but expected one of {dtypes}, the "
            "last as in query"
        )


def _causal(query, key):
    """What is added to the scores so that queries do not attend to later keys."""
    shape = query.shape[-2], key.shape[-2]
    return torch.full(shape, float("-inf"), dtype=query.dtype, device=query.device).triu_(1)


def _additive(mask, dtype, may_be_empty):
    """The mask to be added to the scores, and which queries have no key, of shape (..., L, 1).

    The mask of those queries is zero: the softmax of a row of -inf would be NaN, in backward too.
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
