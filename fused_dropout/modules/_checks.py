"""Checks of the constructors' arguments."""

from fused_dropout.functional import ACTIVATIONS
from fused_dropout.functional._arguments import probability


def check_p(module, p):
    probability(p, type(module).__name__)
    return p


def check_number(module, argument, value, is_valid, expected):
    """Raises unless `is_valid(value)`; `is_valid` raises a TypeError if `value` is not a number."""
    message = f"{type(module).__name__}: {argument} is {value!r}, but expected {expected}"
    try:
        valid = is_valid(value)
    except TypeError:
        raise TypeError(message) from None
    if not valid:
        raise ValueError(message)
    return value


def check_activation(module, activation):
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{type(module).__name__}: activation is {activation!r}, but expected one of "
            + ", ".join(ACTIVATIONS)
        )
    return activation
