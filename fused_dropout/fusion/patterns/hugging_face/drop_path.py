"""``BeitDropPath`` and the copies of it that most families of image models have."""

import re

from fused_dropout import functional as FF
from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern


class FusedDropPath(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return None

    def fused_forward(self, hidden_states):
        every_dim_but_first = tuple(range(1, hidden_states.dim()))
        # Without a decision about each example it keeps all of them.
        p = self.drop_prob or 0.0
        return FF.dropout(hidden_states, p, self.training, shared_dims=every_dim_but_first)


add_fingerprint_pattern(
    "transformers",
    "transformers",
    FusedDropPath,
    ("bda4aadae96fa352",),
    re.compile(r"(Beit|Dinov2|ConvNext|Swin|DonutSwin|Pvt)DropPath"),
    "dropout of whole examples, in one pass",
)
