"""Patterns for the last layers of a branch: ``BertSelfOutput``, ``BertOutput`` and their copies."""

import re

from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern
from fused_dropout.fusion.fused_calls import (
    add,
    add_norm,
    called_layers,
    linear_drop,
    linear_output,
)


class _Output(FusedMixin):
    """A linear layer ``dense`` and a layer ``dropout``. Subclasses define what follows."""

    fused_dropouts = ("dropout",)

    @staticmethod
    def reason_not_fusable(module):
        return dropout_not_fusable("dropout", module.dropout)

    def in_training(self):
        return self.training or self.dropout.training


class FusedAddNormOutput(_Output):
    def fused_forward(self, hidden_states, input_tensor):
        branch, bias = linear_output(self.dense, hidden_states)
        return add_norm(branch, bias, self.dropout, input_tensor, self.LayerNorm)


class FusedAddOutput(_Output):
    def fused_forward(self, hidden_states, input_tensor):
        branch, bias = linear_output(self.dense, hidden_states)
        return add(branch, bias, self.dropout, input_tensor)


class FusedOutput(_Output):
    """Adds no residual."""

    def fused_forward(self, hidden_states):
        return linear_drop(self.dense, self.dropout, hidden_states)


class FusedOutputOfTwo(_Output):
    """Adds no residual: ``input_tensor`` is not used."""

    def fused_forward(self, hidden_states, input_tensor):
        return linear_drop(self.dense, self.dropout, hidden_states)


add_fingerprint_pattern(
    "transformers",
    FusedAddNormOutput,
    ("edd0230858f63315",),
    re.compile(r"(Bert|Roberta|Electra|XLMRoberta|Camembert|Ernie|LayoutLM)(Self)?Output"),
    called_layers("bias, dropout, residual and norm", "dense"),
)
add_fingerprint_pattern(
    "transformers",
    FusedAddOutput,
    ("c1296d9ed90fcad6",),
    re.compile(r"(RobertaPreLayerNorm|Esm)(Self)?Output"),
    called_layers("bias, dropout and residual", "dense"),
)
for _mixin, _fingerprint, _names in (
    (FusedOutput, "a05b21a7b5465d88", None),
    (
        FusedOutputOfTwo,
        "dac5fe5ca77add79",
        re.compile(r"(VideoMAE|Vilt|Yolos|DonutSwin|Swinv2)SelfOutput"),
    ),
):
    add_fingerprint_pattern(
        "transformers",
        _mixin,
        (_fingerprint,),
        _names,
        called_layers("bias and dropout", "dense"),
    )
