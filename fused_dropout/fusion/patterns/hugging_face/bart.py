"""Patterns for BART's encoder and decoder layers, and the same layers in other model families.

Some families have the norms after the branches (post-norm), others before them (pre-norm).
"""

import re

import torch
from transformers.utils.deprecation import deprecate_kwarg

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    called_layers,
    linear_act_drop,
    linear_output,
    run_residual_branches,
)


class _Layer(FusedMixin):
    """Branches that end with dropout, residual additions and norms. Dropout is functional here."""

    norm_first = False
    fuses_calls = True

    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("activation_fn", module.activation_fn)

    def _feed_forward(self, x):
        """The output of the second linear layer without its bias, and the bias."""
        drop = {"p": self.activation_dropout, "training": self.training}
        hidden = linear_act_drop(self.fc1, self.activation_fn, drop, x)
        return linear_output(self.fc2, hidden)

    def _run(self, x, norms_and_branches):
        """A branch is a function of a tensor that returns an output and a bias to be added."""
        drop = {"p": self.dropout, "training": self.training}
        stages = [(norm, drop, branch) for norm, branch in norms_and_branches]
        return run_residual_branches(x, stages, self.norm_first)


class FusedEncoderLayer(_Layer):
    """In transformers 5.10 to 5.24."""

    def fused_forward(self, hidden_states, attention_mask, **kwargs):
        if hidden_states.dtype == torch.float16:
            # The original layer clamps its result in float16.
            return self.unfused_forward(hidden_states, attention_mask, **kwargs)
        hidden_states, _ = self._encode(hidden_states, attention_mask=attention_mask, **kwargs)
        return hidden_states

    def _encode(self, x, **options):
        """The output of the layer, and the attention weights. ``options``: of the attention."""
        weights = []

        def attend(x):
            result = self.self_attn(x, **options)
            weights.append(result[1])
            return result[0], None

        norms = self.self_attn_layer_norm, self.final_layer_norm
        x = self._run(x, zip(norms, (attend, self._feed_forward), strict=True))
        return x, weights[0]


class FusedPreNormEncoderLayer(FusedEncoderLayer):
    norm_first = True


class FusedDecoderLayer(_Layer):
    """In transformers 5.24."""

    @deprecate_kwarg("past_key_values", "5.40.0", new_name="cache")
    def fused_forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        cache=None,
        use_cache=True,
        **kwargs,
    ):
        hidden_states, _ = self._decode(
            hidden_states,
            encoder_hidden_states,
            {"attention_mask": attention_mask, "cache": cache, **kwargs},
            {"attention_mask": encoder_attention_mask, "cache": cache, **kwargs},
        )
        return hidden_states

    def _decode(self, x, encoder_hidden_states, options, cross_options):
        """The output of the layer, and a list with the weights of one or two attentions."""
        weights = []

        def attend(x):
            result = self.self_attn(x, **options)
            weights.append(result[1])
            return result[0], None

        def attend_to_encoder(x):
            result = self.encoder_attn(x, key_value_states=encoder_hidden_states, **cross_options)
            weights.append(result[1])
            return result[0], None

        stages = [
            (self.self_attn_layer_norm, attend),
            (self.final_layer_norm, self._feed_forward),
        ]
        if encoder_hidden_states is not None:
            stages.insert(1, (self.encoder_attn_layer_norm, attend_to_encoder))
        return self._run(x, stages), weights


class FusedPreNormDecoderLayer(FusedDecoderLayer):
    norm_first = True


class FusedDecoderLayerWithPastKeyValues(FusedDecoderLayer):
    """In transformers 5.10 to 5.20."""

    def fused_forward(
        self,
        hidden_states,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        past_key_values=None,
        use_cache=True,
        **kwargs,
    ):
        kwargs["past_key_values"] = past_key_values
        hidden_states, _ = self._decode(
            hidden_states,
            encoder_hidden_states,
            {"attention_mask": attention_mask, **kwargs},
            {"attention_mask": encoder_attention_mask, **kwargs},
        )
        return hidden_states


class FusedPreNormDecoderLayerWithPastKeyValues(FusedDecoderLayerWithPastKeyValues):
    norm_first = True


# {mixin: (fingerprints, names of classes)}
_PATTERNS = {
    FusedEncoderLayer: (("8b6b05099842828a",), "(Bart|Marian|PLBart)EncoderLayer"),
    FusedPreNormEncoderLayer: (
        ("d6f74dd020fd50f9",),
        "(MBart|Pegasus|M2M100|Whisper)EncoderLayer",
    ),
    FusedDecoderLayer: (("3eececd5076fb3c2",), "(Bart|Marian|PLBart)DecoderLayer"),
    FusedPreNormDecoderLayer: (
        ("a50525fb362fd652", "89330db090166728"),
        "(MBart|Pegasus|M2M100|Whisper|Speech2Text|Musicgen|XGLM)DecoderLayer",
    ),
    FusedDecoderLayerWithPastKeyValues: (("23d027951f2dc7ae",), None),
    FusedPreNormDecoderLayerWithPastKeyValues: (("09b4bec77b0e2148", "7da4078aab7c190a"), None),
}


def add_layer_patterns(patterns):
    for mixin, (fingerprints, names) in patterns.items():
        add_fingerprint_pattern(
            "transformers",
            mixin,
            fingerprints,
            names and re.compile(names),
            called_layers("feed-forward layers, dropout, residuals and norms", "fc1", "fc2"),
        )


add_layer_patterns(_PATTERNS)
