"""Pattern for ``ViTLayer`` and its copies in other model families."""

import re

from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import add, add_then_norm


class FusedViTLayer(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return dropout_not_fusable("dropout", module.dropout)

    def in_training(self):
        return self.training or self.dropout.training

    def fused_forward(self, hidden_states, attention_mask=None, **kwargs):
        branch, _ = self.attention(self.layernorm_before(hidden_states), attention_mask, **kwargs)
        normed, residual = add_then_norm(
            branch, None, self.dropout, hidden_states, self.layernorm_after
        )
        return add(self.mlp(normed), None, self.dropout, residual)


add_fingerprint_pattern(
    "transformers",
    FusedViTLayer,
    ("68333c77145bd7a9",),
    re.compile(r"(ViT|DeiT|ViTMAE|ViTMSN|Vivit|AST)Layer"),
    "dropout, residual and norm",
)
