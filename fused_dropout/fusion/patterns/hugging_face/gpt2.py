"""Pattern for ``GPT2MLP`` and its copies.

Their linear layers are ``nn.Linear``, or ``Conv1D`` with a transposed weight.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.eligibility import linear_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import bias_act_drop

_LINEAR_TYPES = (Conv1D, nn.Linear)


def _linear_without_bias(layer, x):
    if type(layer) is Conv1D:
        return torch.matmul(x, layer.weight)
    return F.linear(x, layer.weight)


class FusedGPT2MLP(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return (
            linear_not_fusable("c_fc", module.c_fc, _LINEAR_TYPES)
            or activation_not_fusable("act", module.act)
            or linear_not_fusable("c_proj", module.c_proj, _LINEAR_TYPES)
            or dropout_not_fusable("dropout", module.dropout)
        )

    def in_training(self):
        return self.training or self.dropout.training

    def fused_forward(self, hidden_states):
        hidden = bias_act_drop(
            _linear_without_bias(self.c_fc, hidden_states), self.c_fc.bias, self.act
        )
        output = _linear_without_bias(self.c_proj, hidden)
        return bias_act_drop(output, self.c_proj.bias, None, self.dropout)


add_fingerprint_pattern(
    "transformers",
    FusedGPT2MLP,
    ("5e4ac81e54593719",),
    re.compile(r"(GPT2|GPTNeo|GPTBigCode)MLP"),
    "bias and activation; bias and dropout",
)
