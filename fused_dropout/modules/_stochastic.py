"""Which modules drop at random, and how. The one place that knows.

A module that drops where its own ``training`` flag is set says so by two class attributes:

``is_dropout = True``
    It is found by :func:`fused_dropout.mc_mode` and all that builds on it.
``independent_rows = True``
    Each row of a batch (dimension 0 of the module's input) gets decisions of its own, so that
    copies of a row in one batch are independent samples. Left out where decisions are shared by
    the batch, as those about weights or about words are.

Both are looked up on the instance, so that a foreign class can be told apart from outside
(``StochasticDepth.is_dropout = True``) and a property can decide by the module's options.
"""

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def is_dropout(module):
    """Whether the module drops in training mode, by its own flag rather than a child's."""
    return (
        isinstance(module, _DropoutNd)
        or getattr(module, "is_dropout", False) is True
        or _drops_inside(module)
    )


def has_independent_rows(module):
    """Whether a dropout module is known to decide for each row of a batch anew."""
    # Subclasses of torch's layers may share their masks in any way.
    torchs_own = isinstance(module, _DropoutNd) and type(module).__module__ == _DropoutNd.__module__
    return torchs_own or _drops_inside(module) or getattr(module, "independent_rows", False) is True


def never_drops(module):
    """Whether a dropout module's probability is a number, and zero."""
    if _drops_inside(module):
        return False
    try:
        return float(module.p) == 0
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False


def _drops_inside(module):
    """torch.nn's modules that call functional dropout: no layer among their children does it."""
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1
