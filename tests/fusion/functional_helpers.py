"""Functions that drop, for modules of other files."""

import functools

from torch.nn import functional

SCALE = 1.0


def drop_twice(x, p, training, times=2):
    """Calls itself."""
    if times == 0:
        return SCALE * x
    return functional.dropout(drop_twice(x, p, training, times - 1), p, training)


def named(name):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            assert name == "layer"
            return function(*args, **kwargs)

        return wrapper

    return decorate
