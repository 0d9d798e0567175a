"""The dropout layers of torch.nn: their fused classes, and how fused modules read them."""

from torch import nn

from fused_dropout import modules as M
from fused_dropout.fusion.class_swap import FusedMixin, fused_class
from fused_dropout.fusion.eligibility import (
    child_not_fusable,
    is_supported_tensor,
    record_forwards,
)

_LAYERS = {
    nn.Dropout: M.Dropout,
    nn.Dropout1d: M.Dropout1d,
    nn.Dropout2d: M.Dropout2d,
    nn.Dropout3d: M.Dropout3d,
    nn.AlphaDropout: M.AlphaDropout,
    nn.FeatureAlphaDropout: M.FeatureAlphaDropout,
}
record_forwards((*_LAYERS, nn.Identity))


def _reason_not_fusable(module):
    return None


def _make_mixin(ours, theirs):
    """The mixin that runs ``forward`` of this package's layer, in training and in evaluation."""

    def forward(self, input):
        if is_supported_tensor(input) and self.has_original_methods():
            return ours.forward(self, input)
        return theirs.forward(self, input)

    members = {
        "forward": forward,
        "reason_not_fusable": staticmethod(_reason_not_fusable),
        "redirects": False,
        "__module__": __name__,
    }
    return type(f"Fused{ours.__name__}", (FusedMixin, ours), members)


#: {class of torch.nn: mixin}
MIXINS = {theirs: _make_mixin(ours, theirs) for theirs, ours in _LAYERS.items()}
# Pickles look the mixins up by name in this module.
globals().update({mixin.__name__: mixin for mixin in MIXINS.values()})


#: Layers that drop single elements, or nothing.
DROPOUT = (nn.Dropout, fused_class(MIXINS[nn.Dropout], nn.Dropout), M.Dropout, nn.Identity)


def dropout_not_fusable(name, child):
    """The reason why a dropout child cannot be bypassed; None if it can."""
    return child_not_fusable(name, child, DROPOUT)


def dropout_arguments(child):
    """The keyword arguments of :func:`FF.dropout` that compute a dropout child.

    Args:
        child: a layer in :data:`DROPOUT`, or the arguments themselves, as a dict. Modules that call
            ``F.dropout`` have no dropout child and pass a dict.
    """
    if type(child) is dict:
        return child
    if type(child) is nn.Identity:
        return {"p": 0.0, "training": False}
    if type(child) is M.Dropout:
        return {"p": child.p, "training": child.training, **child._drop_options()}
    return {"p": child.p, "training": child.training}
