"""Pattern for ``BeitDropPath`` and its copies in most families of image models."""

import re

from fused_dropout import functional as FF
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern


class FusedDropPath(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return None

    def fused_forward(self, hidden_states):
        p = self.drop_prob or 0.0  # drop_prob may be None
        all_dims_but_first = tuple(range(1, hidden_states.dim()))
        return FF.dropout(hidden_states, p, self.training, shared_dims=all_dims_but_first)


add_fingerprint_pattern(
    "transformers",
    FusedDropPath,
    ("bda4aadae96fa352",),
    re.compile(r"(Beit|Dinov2|ConvNext|Swin|DonutSwin|Pvt)DropPath"),
    "drops whole examples in one pass",
)
