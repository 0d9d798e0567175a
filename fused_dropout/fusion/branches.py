"""Residual branches: child modules that a residual block runs without their last dropout.

A module whose fused class has a method ``open_forward`` ends with dropout. The method returns
``(output, bias, drop)``; the caller adds the bias, applies dropout and adds the residual, in one
kernel. ``bias`` and ``drop`` may be None, see ``fused_calls.py``.
"""

from fused_dropout.fusion.class_swap import FusedMixin
from fused_dropout.fusion.eligibility import child_not_fusable
from fused_dropout.fusion.fused_calls import linear_output_of_last_dim


def branch_of(child, *args, **kwargs):
    """Runs a child without its last bias and dropout, if it has ``open_forward``.

    Returns:
        ``(output, bias, drop)``. If the child itself was called, bias and drop are None.
    """
    if (
        isinstance(child, FusedMixin)
        and hasattr(child, "open_forward")
        and child_not_fusable("", child, (type(child),)) is None
        and child.runs_fused(args, kwargs)
    ):
        return child.open_forward(*args, **kwargs)
    return child(*args, **kwargs), None, None


def linear_branch(linear, drop, x):
    """``(output, bias, drop)`` of a branch that ends with ``drop(linear(x))``."""
    return *linear_output_of_last_dim(linear, x), drop
