"""The ends of a branch: ``BertSelfOutput``, ``BertOutput`` and those of other families."""

import re

import torch.nn.functional as F

from fused_dropout.fusion.class_swap import Fused
from fused_dropout.fusion.eligibility import product_obstacle
from fused_dropout.fusion.fingerprint import add_forms
from fused_dropout.fusion.fused_calls import add, add_norm, linear_drop
from fused_dropout.fusion.patterns.torch_nn.dropout import drop_obstacle


class _Output(Fused):
    """A linear layer ``dense`` and a ``dropout``; subclasses say what comes after."""

    @staticmethod
    def why_not(module):
        return product_obstacle("dense", module.dense) or drop_obstacle("dropout", module.dropout)

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
    """Without a residual: some take one, and leave it to somebody else."""

    def fused_forward(self, hidden_states, input_tensor=None):
        return linear_drop(self.dense, self.dropout, hidden_states)


add_forms(
    "transformers",
    "transformers",
    FusedAddNormOutput,
    ("edd0230858f63315",),
    re.compile(r"(Bert|Roberta|Electra|XLMRoberta|Camembert|Ernie|LayoutLM)(Self)?Output"),
    "bias, dropout, residual and norm",
)
add_forms(
    "transformers",
    "transformers",
    FusedAddOutput,
    ("c1296d9ed90fcad6",),
    re.compile(r"(RobertaPreLayerNorm|Esm)(Self)?Output"),
    "bias, dropout and residual",
)
add_forms(
    "transformers",
    "transformers",
    FusedOutput,
    ("dac5fe5ca77add79", "a05b21a7b5465d88"),
    re.compile(r"(VideoMAE|Vilt|Yolos|DonutSwin|Swinv2)SelfOutput"),
    "bias and dropout",
)
