"""Pattern for ``GPT2MLP`` and its copies.

Their linear layers are ``nn.Linear``, or ``Conv1D`` with a transposed weight.
"""

import re

import torch
from transformers.pytorch_utils import Conv1D

from fused_dropout.fusion.activations import activation_not_fusable
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    add_linear_class,
    called_layers,
    linear_act_drop,
    linear_drop,
)

add_linear_class(Conv1D, lambda layer, x: torch.matmul(x, layer.weight))


class FusedGPT2MLP(FusedMixin):
    fused_dropouts = ("dropout",)

    @staticmethod
    def reason_not_fusable(module):
        return activation_not_fusable("act", module.act) or dropout_not_fusable(
            "dropout", module.dropout
        )

    def in_training(self):
        return self.training or self.dropout.training

    def fused_forward(self, hidden_states):
        hidden = linear_act_drop(self.c_fc, self.act, None, hidden_states)
        return linear_drop(self.c_proj, self.dropout, hidden)


add_fingerprint_pattern(
    "transformers",
    FusedGPT2MLP,
    ("5e4ac81e54593719",),
    re.compile(r"(GPT2|GPTNeo|GPTBigCode)MLP"),
    called_layers("bias and activation; bias and dropout", "c_fc", "c_proj"),
)
