"""Patterns for T5's feed-forward and attention layers."""

import re

import torch
from transformers.utils.deprecation import deprecate_kwarg

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    add,
    called_layers,
    linear_act_drop,
    two_linears_glu_drop,
)


class _WithDropout(FusedMixin):
    """A module with a child ``dropout``."""

    fused_dropouts = ("dropout",)

    @staticmethod
    def reason_not_fusable(module):
        return dropout_not_fusable("dropout", module.dropout)

    def in_training(self):
        return self.training or self.dropout.training


def _output(wo, hidden):
    """``wo(hidden)``. transformers keeps this layer in float32 in models of 16-bit precision."""
    weight = wo.weight
    if isinstance(weight, torch.Tensor) and weight.dtype not in (hidden.dtype, torch.int8):
        hidden = hidden.to(weight.dtype)
    return wo(hidden)


class FusedDense(_WithDropout):
    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("act", module.act) or dropout_not_fusable(
            "dropout", module.dropout
        )

    def fused_forward(self, hidden_states):
        return _output(self.wo, linear_act_drop(self.wi, self.act, self.dropout, hidden_states))


class FusedGatedDense(_WithDropout):
    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("act", module.act) or dropout_not_fusable(
            "dropout", module.dropout
        )

    def fused_forward(self, hidden_states):
        hidden = two_linears_glu_drop(self.wi_0, self.wi_1, self.act, self.dropout, hidden_states)
        return _output(self.wo, hidden)


class FusedLayerFF(_WithDropout):
    def fused_forward(self, hidden_states):
        branch = self.DenseReluDense(self.layer_norm(hidden_states))
        return add(branch, None, self.dropout, hidden_states)


class LayerAttention(_WithDropout):
    attention = "SelfAttention"

    def run(self, hidden_states, attention_mask, **options):
        """Dropout and residual; the other results of the attention are returned as they are."""
        attention = getattr(self, self.attention)
        branch, *others = attention(self.layer_norm(hidden_states), mask=attention_mask, **options)
        return add(branch, None, self.dropout, hidden_states), *others


class FusedLayerSelfAttention(LayerAttention):
    """In transformers 5.24."""

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def fused_forward(
        self, hidden_states, attention_mask=None, position_bias=None, cache=None, **kwargs
    ):
        return self.run(
            hidden_states, attention_mask, position_bias=position_bias, cache=cache, **kwargs
        )


class FusedLayerCrossAttention(LayerAttention):
    """In transformers 5.24."""

    attention = "EncDecAttention"

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def fused_forward(
        self,
        hidden_states,
        key_value_states,
        attention_mask=None,
        position_bias=None,
        cache=None,
        **kwargs,
    ):
        return self.run(
            hidden_states,
            attention_mask,
            key_value_states=key_value_states,
            position_bias=position_bias,
            cache=cache,
            **kwargs,
        )


for _mixin, _fingerprint, _names, _text in (
    (
        FusedDense,
        "5c0a394577378dcb",
        "DenseActDense",
        called_layers("activation and dropout", "wi"),
    ),
    (
        FusedGatedDense,
        "f84cdc6aff10c59b",
        "DenseGatedActDense",
        called_layers("activation, gate and dropout", "wi_0", "wi_1"),
    ),
    (FusedLayerFF, "3295302a1a943bd5", "LayerFF", "dropout and residual"),
    (FusedLayerSelfAttention, "fef5d2683fbd6f12", "LayerSelfAttention", "dropout and residual"),
    (FusedLayerCrossAttention, "f2398ec91b90b8ed", "LayerCrossAttention", "dropout and residual"),
):
    add_fingerprint_pattern(
        "transformers",
        _mixin,
        (_fingerprint,),
        re.compile(rf"(T5|MT5){_names}"),
        _text,
    )
