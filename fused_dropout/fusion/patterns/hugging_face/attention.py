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
from fused_dropout.fusion.class_swap import FusedMixin, fused_class, mixin_of
from fused_dropout.fusion.other_globals import with_functionals
from fused_dropout.fusion.registry import Pattern, add_pattern_of_modules
from fused_dropout.fusion.structure.pattern import (
    RewrittenModule,
    describe_rewriting,
    reason_not_rewritable,
    rewritten_class,
)

_ORIGINAL = sdpa_attention.sdpa_attention_forward
# The code of the original function, whatever the version: masks, groups of heads and errors are the
# library's. Only the attention in it is this package's. None if it does not call torch's attention.
_WITH_OUR_ATTENTION = with_functionals(
    _ORIGINAL, {"scaled_dot_product_attention": FF.scaled_dot_product_attention}
)


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


class RewrittenAttention(RewrittenModule, FusedAttention):
    """The code around the call of attention is rewritten too."""

    forward = FusedMixin.forward

    @staticmethod
    def reason_not_fusable(module):
        reason = FusedAttention.reason_not_fusable(module)
        return RewrittenModule.reason_not_fusable(module) if reason is None else reason


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, **kwargs):
    """The entry "sdpa" of the attention table. For fused modules it stores no dropout mask."""
    fused = isinstance(module, FusedAttention) and not calls_torch(query, dropout)
    function = _WITH_OUR_ATTENTION if fused else _ORIGINAL
    return function(module, query, key, value, attention_mask, dropout=dropout, **kwargs)


def _register():
    """Replaces the table entry, unless other code has replaced it."""
    if _WITH_OUR_ATTENTION is not None and AttentionInterface()["sdpa"] is _ORIGINAL:
        AttentionInterface.register("sdpa", attention_forward)


@functools.cache
def _table_of(cls):
    """The attention table that ``forward`` of a class uses; None if it uses none."""
    forward = inspect.unwrap(cls.forward)
    code = getattr(forward, "__code__", None)
    if code is None or "ALL_ATTENTION_FUNCTIONS" not in code.co_names:
        return None
    table = forward.__globals__.get("ALL_ATTENTION_FUNCTIONS")
    return table if isinstance(table, AttentionInterface) else None


def _reason_not_fusable(module):
    if _table_of(type(module)).get("sdpa") is not attention_forward:
        return "the entry 'sdpa' of transformers' attention table is an unknown function"
    return FusedAttention.reason_not_fusable(module)


def _fused_class(module):
    if reason_not_rewritable(module) is None:
        return rewritten_class(RewrittenAttention, module)
    return fused_class(FusedAttention, type(module))


def _describe(module):
    text = "dropout of the attention probabilities, on the CPU"
    more = describe_rewriting(module)
    return f"{text}; {more}" if more else text


_register()
add_pattern_of_modules(
    Pattern(
        "transformers",
        matches=lambda cls: _table_of(cls) is not None,
        reason_not_fusable=_reason_not_fusable,
        fused_class=_fused_class,
        made=lambda fused: mixin_of(fused) in (FusedAttention, RewrittenAttention),
        describe=_describe,
    )
)
