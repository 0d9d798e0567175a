"""Runs the code of a function of another library with some functions of torch replaced.

The library keeps its own function, and torch is not patched: the same code gets other globals.
"""

from types import FunctionType, ModuleType

import torch
import torch.nn.functional as F
from torch import nn


class _StandIn(ModuleType):
    """A module with some attributes replaced; the others are those that the original has now."""

    def __init__(self, original, replaced):
        super().__init__(original.__name__)
        self.__dict__.update(replaced, _original=original)

    def __getattr__(self, name):
        return getattr(self.__dict__["_original"], name)


def with_functionals(function, replaced):
    """A function with the code of ``function`` that calls other functions than those of torch.

    Args:
        function: a function that looks functions of ``torch.nn.functional`` up in its globals, by
            any of the usual imports, such as ``F``, ``nn.functional`` or ``from ... import``.
        replaced: {name of a function of ``torch.nn.functional``: replacement}.

    Returns:
        function: a new function; None if the code of ``function`` uses none of the names.
    """
    is_plain = isinstance(function, FunctionType)
    if not is_plain or replaced.keys().isdisjoint(function.__code__.co_names):
        return None
    functional = _StandIn(F, replaced)
    inside_nn = _StandIn(nn, {"functional": functional})
    inside_torch = _StandIn(torch, {"nn": inside_nn})
    stand_ins = {id(F): functional, id(nn): inside_nn, id(torch): inside_torch}
    stand_ins |= {id(getattr(F, name)): other for name, other in replaced.items()}
    names = {
        name: stand_ins.get(id(value), value)
        for name, value in function.__globals__.items()
        if name != "__name__"  # torch.compile would look the names up in the module of that name
    }
    new = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    new.__kwdefaults__ = function.__kwdefaults__
    return new
