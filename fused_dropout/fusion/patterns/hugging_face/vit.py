"""Pattern for ``ViTLayer`` and its copies in other model families."""

import re

from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import add, add_then_norm


class FusedViTLayer(FusedMixin):
    fused_dropouts = ("dropout",)

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


class _LayerWithOutput(FusedMixin):
    """The layers before transformers 5.10: the branches end with modules of their own."""

    @staticmethod
    def reason_not_fusable(module):
        return None

    def _run(self, hidden_states, *head_mask):
        branch = self.attention(self.layernorm_before(hidden_states), *head_mask)
        normed, residual = add_then_norm(branch, None, None, hidden_states, self.layernorm_after)
        return self.output(self.intermediate(normed), residual)


class FusedViTLayerWithOutput(_LayerWithOutput):
    """In transformers 5.0."""

    def fused_forward(self, hidden_states):
        return self._run(hidden_states)


class FusedViTLayerWithHeadMask(_LayerWithOutput):
    """In transformers 4.57."""

    def fused_forward(self, hidden_states, head_mask=None):
        return self._run(hidden_states, head_mask)


for _mixin, _fingerprint, _names, _text in (
    (
        FusedViTLayer,
        "dd7c87ae87700724",
        re.compile(r"(ViT|DeiT|ViTMAE|ViTMSN|Vivit|AST)Layer"),
        "dropout, residual and norm",
    ),
    (FusedViTLayerWithOutput, "f712b624cf940e41", None, "residual and norm"),
    (FusedViTLayerWithHeadMask, "d0a1e2b6db8e98b0", None, "residual and norm"),
):
    add_fingerprint_pattern("transformers", _mixin, (_fingerprint,), _names, _text)
