"""torch.nn's dropout layers, which store no mask when fused, and what other patterns ask them."""

from torch import nn

from fused_dropout import modules as M
from fused_dropout.fusion.class_swap import FusedMixin, fused_class
from fused_dropout.fusion.eligibility import (
    child_not_fusable,
    is_replaced,
    is_supported_tensor,
    record_forwards,
)
from fused_dropout.fusion.registry import add_pattern

_LAYERS = {
    nn.Dropout: M.Dropout,
    nn.Dropout1d: M.Dropout1d,
    nn.Dropout2d: M.Dropout2d,
    nn.Dropout3d: M.Dropout3d,
    nn.AlphaDropout: M.AlphaDropout,
    nn.FeatureAlphaDropout: M.FeatureAlphaDropout,
}


def _mixin(ours, theirs):
    """The forward is that of this package's layer, in every mode."""

    def forward(self, input):
        if is_supported_tensor(input) and self.has_original_methods():
            return ours.forward(self, input)
        return theirs.forward(self, input)

    members = {
        "forward": forward,
        "reason_not_fusable": staticmethod(_reason_not_fusable),
        "__module__": __name__,
    }
    return type(f"Fused{ours.__name__}", (FusedMixin, ours), members)


def _reason_not_fusable(module):
    return None


def _class_not_fusable(cls):
    return f"{cls.__qualname__}.forward was exchanged" if is_replaced(cls, "forward") else None


_MIXINS = {theirs: _mixin(ours, theirs) for theirs, ours in _LAYERS.items()}
record_forwards((*_LAYERS, nn.Identity))

for _theirs, _class in _MIXINS.items():
    globals()[_class.__name__] = _class  # where pickles look for it
    add_pattern(
        "dropout",
        _class,
        lambda cls, theirs=_theirs: cls is theirs,
        "stores no mask",
        _class_not_fusable,
    )


#: Layers that drop single elements, or nothing.
DROPOUT = (nn.Dropout, fused_class(_MIXINS[nn.Dropout], nn.Dropout), M.Dropout, nn.Identity)


def dropout_not_fusable(name, child):
    """Why a dropout child cannot be computed in its place; None if it can."""
    return child_not_fusable(name, child, DROPOUT)


def drop_arguments(child):
    """``p``, ``training`` and the options of a dropout child, as keyword arguments.

    Where a module calls a dropout function, these arguments stand for the child.
    """
    if type(child) is dict:
        return child
    if type(child) is nn.Identity:
        return {"p": 0.0, "training": False}
    if type(child) is M.Dropout:
        return {"p": child.p, "training": child.training, **child._drop_options()}
    return {"p": child.p, "training": child.training}
