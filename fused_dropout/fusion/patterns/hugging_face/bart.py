"""Patterns for BART's encoder and decoder layers, and the same layers in other model families.

Some families have the norms after the branches (post-norm), others before them (pre-norm).
"""

import re

import torch
import torch.nn.functional as F

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.eligibility import linear_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import linear_act_drop, run_residual_branches


class _Layer(FusedMixin):
    """Branches that end with dropout, residual additions and norms. Dropout is functional here."""

    norm_first = False

    @staticmethod
    def reason_not_fusable(module):
        return (
            linear_not_fusable("fc1", module.fc1)
            or activation_not_fusable("activation_fn", module.activation_fn)
            or linear_not_fusable("fc2", module.fc2)
        )

    def _feed_forward(self, x):
        """The output of the second linear layer without its bias, and the bias."""
        drop = {"p": self.activation_dropout, "training": self.training}
        hidden = linear_act_drop(self.fc1, self.activation_fn, drop, x)
        return F.linear(hidden, self.fc2.weight), self.fc2.bias

    def _run(self, x, norms_and_branches):
        """A branch is a function of a tensor that returns an output and a bias to be added."""
        drop = {"p": self.dropout, "training": self.training}
        stages = [(norm, drop, branch) for norm, branch in norms_and_branches]
        return run_residual_branches(x, stages, self.norm_first)


class FusedEncoderLayer(_Layer):
    def fused_forward(self, hidden_states, attention_mask, **kwargs):
        if hidden_states.dtype == torch.float16:
            # The original layer clamps its result in float16.
            return self.unfused_forward(hidden_states, attention_mask, **kwargs)

        def attend(x):
            return self.self_attn(x, attention_mask=attention_mask, **kwargs)[0], None

        return self._run(
            hidden_states,
            ((self.self_attn_layer_norm, attend), (self.final_layer_norm, self._feed_forward)),
        )


class FusedPreNormEncoderLayer(FusedEncoderLayer):
    norm_first = True


class FusedDecoderLayer(_Layer):
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
        def attend(x):
            result = self.self_attn(x, cache=cache, attention_mask=attention_mask, **kwargs)
            return result[0], None

        def attend_to_encoder(x):
            result = self.encoder_attn(
                x,
                key_value_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                cache=cache,
                **kwargs,
            )
            return result[0], None

        stages = [
            (self.self_attn_layer_norm, attend),
            (self.final_layer_norm, self._feed_forward),
        ]
        if encoder_hidden_states is not None:
            stages.insert(1, (self.encoder_attn_layer_norm, attend_to_encoder))
        return self._run(hidden_states, stages)


class FusedPreNormDecoderLayer(FusedDecoderLayer):
    norm_first = True


for _mixin, _fingerprint, _names in (
    (FusedEncoderLayer, "10d50b1032a0e915", "(Bart|Marian|PLBart)EncoderLayer"),
    (FusedDecoderLayer, "f774a62ba3f0ed01", "(Bart|Marian|PLBart)DecoderLayer"),
    (FusedPreNormEncoderLayer, "8dcbba6866649aa2", "(MBart|Pegasus|M2M100|Whisper)EncoderLayer"),
    (FusedPreNormDecoderLayer, "8ee3be77739ff481", "(MBart|Pegasus|M2M100)DecoderLayer"),
):
    add_fingerprint_pattern(
        "transformers",
        _mixin,
        (_fingerprint,),
        re.compile(_names),
        "feed-forward layers, dropout, residuals and norms",
    )
