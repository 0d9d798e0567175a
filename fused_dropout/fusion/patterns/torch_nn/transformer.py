"""Patterns for ``nn.TransformerEncoderLayer`` and ``nn.TransformerDecoderLayer``."""

import torch.nn.functional as F
from torch import nn

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.eligibility import is_supported_tensor
from fused_dropout.fusion.fused_calls import (
    linear_act_drop,
    linear_called,
    linear_output,
    run_residual_branches,
)
from fused_dropout.fusion.patterns.torch_nn.attention import (
    attend,
    attention_called,
    attention_not_fusable,
)
from fused_dropout.fusion.registry import add_subclass_pattern


def _feed_forward(layer, x):
    """The output of the second linear layer without its bias, and the bias."""
    hidden = linear_act_drop(layer.linear1, layer.activation, layer.dropout, x)
    return linear_output(layer.linear2, hidden)


def _children_not_fusable(layer, attentions, drops):
    for name in attentions:
        if reason := attention_not_fusable(name, getattr(layer, name)):
            return reason
    for name in drops:
        if reason := dropout_not_fusable(name, getattr(layer, name)):
            return reason
    return None


class _Layer(FusedMixin):
    """What both layers share: branches with dropout, residual additions and norms."""

    @classmethod
    def dropouts_in_kernels(cls, module):
        drops = super().dropouts_in_kernels(module)
        if activation_not_fusable("activation", module.activation) is None:
            drops.append(module.dropout)
        return drops

    def in_training(self):
        return (
            self.training
            or self.dropout.training
            or any(drop.training for _, drop in self._norms_and_drops())
            or any(attention.training for attention in self._attentions())
        )

    def _run(self, x, branches):
        """``branches``: functions of a tensor that return an output and a bias to be added."""
        stages = [
            (norm, drop, branch)
            for (norm, drop), branch in zip(self._norms_and_drops(), branches, strict=True)
        ]
        return run_residual_branches(x, stages, self.norm_first)


_METHODS = ("forward", "_sa_block", "_ff_block")


class FusedTransformerEncoderLayer(_Layer):
    fused_dropouts = "dropout1", "dropout2"
    bypassed_methods = _METHODS

    @staticmethod
    def reason_not_fusable(module):
        return _children_not_fusable(module, ("self_attn",), ("dropout", "dropout1", "dropout2"))

    def _norms_and_drops(self):
        return (self.norm1, self.dropout1), (self.norm2, self.dropout2)

    def _attentions(self):
        return (self.self_attn,)

    def fused_forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        if not is_supported_tensor(src):
            return self.unfused_forward(src, src_mask, src_key_padding_mask, is_causal)
        if attention_called("self_attn", self.self_attn) is not None:
            src_mask, src_key_padding_mask = _float_masks(src, src_mask, src_key_padding_mask)
        return self._run(
            src,
            (
                lambda x: attend(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal),
                lambda x: _feed_forward(self, x),
            ),
        )


class FusedTransformerDecoderLayer(_Layer):
    bypassed_methods = (*_METHODS, "_mha_block")
    fused_dropouts = "dropout1", "dropout2", "dropout3"

    @staticmethod
    def reason_not_fusable(module):
        return _children_not_fusable(
            module,
            ("self_attn", "multihead_attn"),
            ("dropout", "dropout1", "dropout2", "dropout3"),
        )

    def _norms_and_drops(self):
        return (
            (self.norm1, self.dropout1),
            (self.norm2, self.dropout2),
            (self.norm3, self.dropout3),
        )

    def _attentions(self):
        return self.self_attn, self.multihead_attn

    def fused_forward(
        self,
        tgt,
        memory,
        tgt_mask=None,
        memory_mask=None,
        tgt_key_padding_mask=None,
        memory_key_padding_mask=None,
        tgt_is_causal=False,
        memory_is_causal=False,
    ):
        return self._run(
            tgt,
            (
                lambda x: attend(
                    self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal
                ),
                lambda x: attend(
                    self.multihead_attn,
                    x,
                    memory,
                    memory_mask,
                    memory_key_padding_mask,
                    memory_is_causal,
                ),
                lambda x: _feed_forward(self, x),
            ),
        )


def _float_masks(src, mask, padding):
    """The masks that the original encoder layer passes to its attention."""
    padding = F._canonical_mask(
        padding, "src_key_padding_mask", F._none_or_dtype(mask), "src_mask", src.dtype
    )
    return F._canonical_mask(mask, "src_mask", None, "", src.dtype, check_other=False), padding


def _describe(module):
    attentions = [name for name in ("self_attn", "multihead_attn") if hasattr(module, name)]
    notes = [attention_called(name, getattr(module, name)) for name in attentions]
    notes += (linear_called(name, getattr(module, name)) for name in ("linear1", "linear2"))
    notes.append(activation_not_fusable("activation", module.activation))
    notes = [note for note in notes if note is not None]
    text = "attention, feed-forward layers, residuals and norms"
    return f"{text}; not fused: {'; '.join(notes)}" if notes else text


for _mixin, _base in (
    (FusedTransformerEncoderLayer, nn.TransformerEncoderLayer),
    (FusedTransformerDecoderLayer, nn.TransformerDecoderLayer),
):
    add_subclass_pattern("torch.nn", _mixin, _base, _describe)
