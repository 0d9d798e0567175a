"""``nn.MultiheadAttention`` as a child of a fused module."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.fusion.class_swap import unfused_class
from fused_dropout.fusion.eligibility import (
    LINEAR,
    child_not_fusable,
    is_sharded,
    linear_not_fusable,
    record_forwards,
)

_OUT_PROJ = (nn.modules.linear.NonDynamicallyQuantizableLinear, *LINEAR)
record_forwards((nn.MultiheadAttention, *_OUT_PROJ))


def attention_called(name, child):
    """The reason why an attention child has to be called; None if it can be bypassed.

    It is called if it has hooks, or if it or its output projection is an adapter or another class.
    """
    # Fused, the module computes the same without a stored mask.
    is_fused = unfused_class(type(child)) is nn.MultiheadAttention
    cls = type(child) if is_fused else nn.MultiheadAttention
    return child_not_fusable(name, child, (cls,)) or linear_not_fusable(
        f"{name}.out_proj", child.out_proj, _OUT_PROJ
    )


def attention_not_fusable(name, child):
    """The reason why the layer of an attention child cannot be fused: it was sharded before."""
    weight = next(iter(child._parameters.values()), None)
    return f"{name} has weights of type {type(weight).__name__}" if is_sharded(weight) else None


def attend(attention, query, memory, attn_mask, key_padding_mask, is_causal):
    """``attention(query, memory, memory)`` without adding the bias of the output projection.

    Args:
        attention: an ``nn.MultiheadAttention``, or a module with adapters in its place.
        query, memory: the inputs of the module, batched or not. For self-attention both are the
            same object.
        attn_mask, key_padding_mask, is_causal: the arguments of the module.

    Returns:
        ``(output, bias)``: the caller adds the bias, which may be None.
    """
    if _needs_original_forward(attention, query, memory, attn_mask, key_padding_mask, is_causal):
        output = attention(
            query,
            memory,
            memory,
            key_padding_mask=key_padding_mask,
            need_weights=False,
            attn_mask=attn_mask,
            is_causal=is_causal,
        )[0]
        return output, None
    batched = query.dim() == 3
    sequence_first = batched and not attention.batch_first
    q, k, v = (
        _split_heads(x, attention, sequence_first) for x in _project(attention, query, memory)
    )
    causal_only = is_causal and key_padding_mask is None
    mask = None if causal_only else _merge_masks(attn_mask, key_padding_mask, q)
    heads = FF.scaled_dot_product_attention(
        q, k, v, mask, attention.dropout if attention.training else 0.0, causal_only
    )
    # From (batch, heads, length, width) to the dimension order of query.
    heads = heads.permute(2, 0, 1, 3) if sequence_first else heads.transpose(-3, -2)
    return F.linear(heads.flatten(-2), attention.out_proj.weight), attention.out_proj.bias


def _needs_original_forward(attention, query, memory, attn_mask, padding, is_causal):
    """Whether the module itself has to run: also for rare options, and to raise torch's errors."""
    if attention_called("", attention) is not None:
        return True
    if attention.bias_k is not None or attention.add_zero_attn:
        return True
    if query.dim() not in (2, 3) or memory.dim() != query.dim():
        return True
    (batch, length), (memory_batch, keys) = (_sizes(attention, x) for x in (query, memory))
    mask_per_head = (batch * attention.num_heads, length, keys)
    return (
        batch != memory_batch
        or (is_causal and attn_mask is None)
        or not _is_supported_mask(attn_mask, (length, keys), mask_per_head)
        or not _is_supported_mask(padding, (batch, keys) if query.dim() == 3 else (keys,))
    )


def _sizes(attention, x):
    """The batch size and the sequence length."""
    if x.dim() == 2:
        return 1, x.shape[0]
    return x.shape[:2] if attention.batch_first else (x.shape[1], x.shape[0])


def _is_supported_mask(mask, *shapes):
    return mask is None or (
        mask.shape in shapes and (mask.dtype == torch.bool or mask.dtype.is_floating_point)
    )


def _project(attention, query, memory):
    """Queries, keys and values, in as few matrix products as the module allows."""
    bias = attention.in_proj_bias
    if attention._qkv_same_embed_dim:
        if memory is query:
            return F.linear(query, attention.in_proj_weight, bias).chunk(3, -1)
        width = attention.embed_dim
        weights = attention.in_proj_weight.split([width, 2 * width])
        biases = (None, None) if bias is None else bias.split([width, 2 * width])
        return F.linear(query, weights[0], biases[0]), *F.linear(
            memory, weights[1], biases[1]
        ).chunk(2, -1)
    weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
    biases = (None, None, None) if bias is None else bias.chunk(3)
    return tuple(
        F.linear(x, weight, b)
        for x, weight, b in zip((query, memory, memory), weights, biases, strict=True)
    )


def _split_heads(x, attention, sequence_first):
    """To shape (batch, heads, length, width), or (heads, length, width) for unbatched x."""
    x = x.unflatten(-1, (attention.num_heads, attention.head_dim))
    return x.permute(1, 2, 0, 3) if sequence_first else x.transpose(-3, -2)


def _merge_masks(attn_mask, padding, q):
    """Both masks as one additive mask that broadcasts to the shape of the scores."""
    mask = None
    if attn_mask is not None:
        mask = _additive_mask(attn_mask, q.dtype)
        if mask.dim() == 3 and q.dim() == 4:  # one mask for each example and head
            mask = mask.unflatten(0, q.shape[:2])
    if padding is not None:
        padding = _additive_mask(padding, q.dtype)[..., None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _additive_mask(mask, dtype):
    """In a boolean mask of nn.MultiheadAttention, True excludes a key from attention."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
