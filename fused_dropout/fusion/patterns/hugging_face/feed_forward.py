"""Patterns for the feed-forward layers of BERT, CLIP and Wav2Vec2, and their copies."""

import re

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import called_layers, linear_act_drop, linear_drop


class FusedIntermediate(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("intermediate_act_fn", module.intermediate_act_fn)

    def fused_forward(self, hidden_states):
        return linear_act_drop(self.dense, self.intermediate_act_fn, None, hidden_states)


class FusedMLP(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("activation_fn", module.activation_fn)

    def fused_forward(self, hidden_states):
        return self.fc2(linear_act_drop(self.fc1, self.activation_fn, None, hidden_states))


class FusedFeedForward(FusedMixin):
    fused_dropouts = "intermediate_dropout", "output_dropout"

    @staticmethod
    def reason_not_fusable(module):
        return (
            activation_not_fusable("intermediate_act_fn", module.intermediate_act_fn)
            or dropout_not_fusable("intermediate_dropout", module.intermediate_dropout)
            or dropout_not_fusable("output_dropout", module.output_dropout)
        )

    def in_training(self):
        return self.training or self.intermediate_dropout.training or self.output_dropout.training

    def fused_forward(self, hidden_states):
        hidden = linear_act_drop(
            self.intermediate_dense,
            self.intermediate_act_fn,
            self.intermediate_dropout,
            hidden_states,
        )
        return linear_drop(self.output_dense, self.output_dropout, hidden)


add_fingerprint_pattern(
    "transformers",
    FusedIntermediate,
    ("cf65bc74f562bf96",),
    re.compile(r"(Bert|Roberta|Electra|XLMRoberta|Camembert|Ernie|LayoutLM)Intermediate"),
    called_layers("bias and activation", "dense"),
)
add_fingerprint_pattern(
    "transformers",
    FusedMLP,
    ("10797a3e625952cf",),
    re.compile(r"(ViT|CLIP|DeiT|Dinov2|Beit)MLP"),
    called_layers("bias and activation", "fc1"),
)
add_fingerprint_pattern(
    "transformers",
    FusedFeedForward,
    ("f60b1b675b9917e8",),
    re.compile(r"(Wav2Vec2|Hubert|WavLM)FeedForward"),
    called_layers("bias, activation and dropout, twice", "intermediate_dense", "output_dense"),
)
