"""Decides which modules are dropout layers.

A module that drops while its own `training` flag is set has two attributes:

`is_dropout = True`
    `fused_dropout.mc_mode` finds the module.
`independent_rows = True`
    Each row of a batch (dimension 0 of the module's input) has its own mask, so copies of a row in
    one batch are independent samples. Modules whose mask is shared by the batch, such as a mask of
    weights or of words, do not set it.

Both are looked up on the instance. They can be set on a class of another package
(`StochasticDepth.is_dropout = True`), and a property can depend on the options of a module.
"""

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def is_dropout(module):
    """Whether the module itself drops in training mode. Its children do not count."""
    return (
        isinstance(module, _DropoutNd)
        or getattr(module, "is_dropout", False) is True
        or _drops_inside(module)
    )


def has_independent_rows(module):
    """Whether a dropout module is known to have a separate mask for each row of a batch."""
    # Subclasses of torch's layers, defined elsewhere, may share masks in any way.
    is_torch = isinstance(module, _DropoutNd) and type(module).__module__ == _DropoutNd.__module__
    return is_torch or _drops_inside(module) or getattr(module, "independent_rows", False) is True


def never_drops(module):
    """Whether the probability of a dropout module is known to be zero."""
    if _drops_inside(module):
        return False
    try:
        return float(module.p) == 0
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False


def _drops_inside(module):
    """Whether the module is one of torch.nn that drops without a dropout layer as a child."""
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1
