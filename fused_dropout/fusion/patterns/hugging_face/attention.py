"""Pattern for attention modules that look their function up in transformers' attention table.

Nearly all attention modules of transformers do that. A fused module keeps its original ``forward``.
The table entry for "sdpa" is replaced by a function that calls this package's attention for fused
modules, and the original function for all others.

A new entry with a name of its own, selected by the configuration, would not work: several modules,
and the functions that create attention masks, compare the name in the configuration with "sdpa".
"""

import functools
import inspect

from transformers.integrations import sdpa_attention
from transformers.modeling_utils import AttentionInterface

from fused_dropout import functional as FF
from fused_dropout.functional._attention import calls_torch
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.fingerprint import fingerprint_of
from fused_dropout.fusion.registry import add_pattern

_ORIGINAL_FUNCTION = sdpa_attention.sdpa_attention_forward
_FINGERPRINT = "1d6d01c0bb2a6704"
# Calls with one of these options go to the original function.
_UNSUPPORTED_OPTIONS = ("softcap", "output_attentions")


class FusedAttention(FusedMixin):
    """Marks a module for :func:`attention_forward`; its ``forward`` is the original one."""

    @staticmethod
    def reason_not_fusable(module):
        implementation = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if implementation != "sdpa":
            return f"attn_implementation is {implementation!r}, but expected 'sdpa'"
        return None

    def forward(self, *args, **kwargs):
        return self.unfused_forward(*args, **kwargs)


def attention_forward(
    module,
    query,
    key,
    value,
    attention_mask,
    dropout=0.0,
    scaling=None,
    is_causal=None,
    position_bias=None,
    **kwargs,
):
    """The entry "sdpa" of the attention table. For fused modules it stores no dropout mask."""
    if not _uses_our_function(module, query, dropout, kwargs):
        return _ORIGINAL_FUNCTION(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    is_causal = is_causal and attention_mask is None and query.shape[2] > 1
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = (sdpa_attention.repeat_kv(x, groups) for x in (key, value))
    if position_bias is not None:
        attention_mask = sdpa_attention.create_position_bias_mask(
            position_bias, attention_mask, is_causal, query, key
        )
        is_causal = False
    output = FF.scaled_dot_product_attention(
        query, key, value, attention_mask, dropout, is_causal, scaling
    )
    return output.transpose(1, 2).contiguous(), None


def _uses_our_function(module, query, dropout, kwargs):
    return (
        isinstance(module, FusedAttention)
        and not calls_torch(query, dropout)
        and not any(kwargs.get(name) for name in _UNSUPPORTED_OPTIONS)
    )


def _register():
    """Replaces the table entry, if it is the original function with the known fingerprint."""
    is_original = AttentionInterface()["sdpa"] is _ORIGINAL_FUNCTION
    if is_original and fingerprint_of(_ORIGINAL_FUNCTION) == _FINGERPRINT:
        AttentionInterface.register("sdpa", attention_forward)


@functools.cache
def _table_of(cls):
    """The attention table that ``forward`` of a class uses; None if it uses none."""
    forward = inspect.unwrap(cls.forward)
    code = getattr(forward, "__code__", None)
    if code is None or not {"ALL_ATTENTION_FUNCTIONS", "get_interface"} <= set(code.co_names):
        return None
    table = forward.__globals__.get("ALL_ATTENTION_FUNCTIONS")
    return table if isinstance(table, AttentionInterface) else None


def _class_not_fusable(cls):
    if _table_of(cls).get("sdpa") is not attention_forward:
        return "the entry 'sdpa' of transformers' attention table is an unknown function"
    return None


_register()
add_pattern(
    "transformers",
    FusedAttention,
    lambda cls: _table_of(cls) is not None,
    "dropout of the attention probabilities, on the CPU",
    _class_not_fusable,
)
