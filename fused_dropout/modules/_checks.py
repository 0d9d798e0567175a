"""Checks of constructor arguments."""

from fused_dropout.functional import ACTIVATIONS
from fused_dropout.functional._arguments import probability


def check_p(p):
    probability(p)
    return p


def check_activation(module, activation):
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{type(module).__name__}: activation is {activation!r}, but expected one of "
            + ", ".join(ACTIVATIONS)
        )
    return activation
