"""Feed-forward layers: ``BertIntermediate``, ``CLIPMLP``, ``Wav2Vec2FeedForward`` and their kin."""

import re

from fused_dropout.fusion.activations import activation_obstacle
from fused_dropout.fusion.class_swap import Fused
from fused_dropout.fusion.eligibility import product_obstacle
from fused_dropout.fusion.fingerprint import add_forms
from fused_dropout.fusion.fused_calls import linear_act_drop, linear_drop
from fused_dropout.fusion.patterns.torch_nn.dropout import drop_obstacle


class FusedIntermediate(Fused):
    @staticmethod
    def why_not(module):
        return product_obstacle("dense", module.dense) or activation_obstacle(
            "intermediate_act_fn", module.intermediate_act_fn
        )

    def fused_forward(self, hidden_states):
        return linear_act_drop(self.dense, self.intermediate_act_fn, None, hidden_states)


class FusedMLP(Fused):
    @staticmethod
    def why_not(module):
        return product_obstacle("fc1", module.fc1) or activation_obstacle(
            "activation_fn", module.activation_fn
        )

    def fused_forward(self, hidden_states):
        return self.fc2(linear_act_drop(self.fc1, self.activation_fn, None, hidden_states))


class FusedFeedForward(Fused):
    @staticmethod
    def why_not(module):
        return (
            product_obstacle("intermediate_dense", module.intermediate_dense)
            or activation_obstacle("intermediate_act_fn", module.intermediate_act_fn)
            or drop_obstacle("intermediate_dropout", module.intermediate_dropout)
            or product_obstacle("output_dense", module.output_dense)
            or drop_obstacle("output_dropout", module.output_dropout)
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


add_forms(
    "transformers",
    "transformers",
    FusedIntermediate,
    ("cf65bc74f562bf96",),
    re.compile(r"(Bert|Roberta|Electra|XLMRoberta|Camembert|Ernie|LayoutLM)Intermediate"),
    "bias and activation",
)
add_forms(
    "transformers",
    "transformers",
    FusedMLP,
    ("10797a3e625952cf",),
    re.compile(r"(ViT|CLIP|DeiT|Dinov2|Beit)MLP"),
    "bias and activation",
)
add_forms(
    "transformers",
    "transformers",
    FusedFeedForward,
    ("f60b1b675b9917e8",),
    re.compile(r"(Wav2Vec2|Hubert|WavLM)FeedForward"),
    "bias, activation and dropout, twice",
)
