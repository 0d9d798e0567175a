"""Pattern for the dropout layers of torch.nn. Fused, they store no mask for backward."""

from fused_dropout.fusion.dropout_layers import MIXINS
from fused_dropout.fusion.eligibility import is_replaced
from fused_dropout.fusion.registry import add_pattern


def _class_not_fusable(cls):
    return f"{cls.__qualname__}.forward was replaced" if is_replaced(cls, "forward") else None


for _cls, _mixin in MIXINS.items():
    add_pattern(
        "dropout",
        _mixin,
        lambda cls, expected=_cls: cls is expected,
        "stores no mask",
        _class_not_fusable,
    )
