"""Patterns for the last layers of a branch: ``BertSelfOutput``, ``BertOutput`` and their copies."""

import re

import torch.nn.functional as F

from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.eligibility import linear_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import add, add_norm, linear_drop


class _Output(FusedMixin):
    """A linear layer ``dense`` and a layer ``dropout``. Subclasses define what follows."""

    @staticmethod
    def reason_not_fusable(module):
        return linear_not_fusable("dense", module.dense) or dropout_not_fusable(
            "dropout", module.dropout
        )

    def in_training(self):
        return self.training or self.dropout.training


class FusedAddNormOutput(_Output):
    def fused_forward(self, hidden_states, input_tensor):
        branch = F.linear(hidden_states, self.dense.weight)
        return add_norm(branch, self.dense.bias, self.dropout, input_tensor, self.LayerNorm)


class FusedAddOutput(_Output):
    def fused_forward(self, hidden_states, input_tensor):
        branch = F.linear(hidden_states, self.dense.weight)
        return add(branch, self.dense.bias, self.dropout, input_tensor)


class FusedOutput(_Output):
    """Adds no residual. Some classes have the argument ``input_tensor`` and do not use it."""

    def fused_forward(self, hidden_states, input_tensor=None):
        return linear_drop(self.dense, self.dropout, hidden_states)


add_fingerprint_pattern(
    "transformers",
    FusedAddNormOutput,
    ("edd0230858f63315",),
    re.compile(r"(Bert|Roberta|Electra|XLMRoberta|Camembert|Ernie|LayoutLM)(Self)?Output"),
    "bias, dropout, residual and norm",
)
add_fingerprint_pattern(
    "transformers",
    FusedAddOutput,
    ("c1296d9ed90fcad6",),
    re.compile(r"(RobertaPreLayerNorm|Esm)(Self)?Output"),
    "bias, dropout and residual",
)
add_fingerprint_pattern(
    "transformers",
    FusedOutput,
    ("dac5fe5ca77add79", "a05b21a7b5465d88"),
    re.compile(r"(VideoMAE|Vilt|Yolos|DonutSwin|Swinv2)SelfOutput"),
    "bias and dropout",
)
