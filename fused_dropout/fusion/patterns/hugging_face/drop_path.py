"""Pattern for ``BeitDropPath`` and its copies in most families of image models."""

import inspect
import re

from fused_dropout import functional as FF
from fused_dropout.fusion.class_swap import FusedMixin, class_of
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern, fingerprint_of


class FusedDropPath(FusedMixin):
    @staticmethod
    def reason_not_fusable(module):
        return None

    def fused_forward(self, hidden_states):
        p = self.drop_prob or 0.0  # drop_prob may be None
        all_dims_but_first = tuple(range(1, hidden_states.dim()))
        return FF.dropout(hidden_states, p, self.training, shared_dims=all_dims_but_first)


class FusedDropPathByFunction(FusedDropPath):
    """In transformers before 5.10, where ``forward`` calls a function ``drop_path``."""

    @staticmethod
    def reason_not_fusable(module):
        cls = class_of(module)
        function = inspect.unwrap(cls.forward).__globals__.get("drop_path")
        known = function is not None and fingerprint_of(function) in _FUNCTIONS
        return None if known else "drop_path is an unknown function"


# Of the function `drop_path` in transformers 4.57 and 5.0.
_FUNCTIONS = ("646af3da437264fb",)
for _mixin, _fingerprint, _names in (
    (
        FusedDropPath,  # in transformers 5.10 to 5.24
        "c2d572159e431e39",
        re.compile(r"(Beit|Dinov2|ConvNext|Swin|DonutSwin|Pvt)DropPath"),
    ),
    (FusedDropPathByFunction, "925d7d734034ed9c", None),
):
    add_fingerprint_pattern(
        "transformers", _mixin, (_fingerprint,), _names, "drops whole examples in one pass"
    )
