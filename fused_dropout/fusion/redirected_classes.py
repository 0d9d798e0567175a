"""Subclasses whose methods are redirected: see ``redirect.py``."""

import types
from typing import NamedTuple

from fused_dropout._once import made_once
from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.redirect import is_searched, redirected


def redirected_bases(cls):
    """The bases of a class that computes what `cls` computes without torch's dropout functions.

    The methods of each class of the hierarchy are redirected in a subclass of that class. In the
    method resolution order each of these comes right before its class, so that `super()` in a
    method finds the redirected methods of the next class.
    """
    bases = []
    for one in cls.__mro__:
        methods = _redirected_class(one)
        if methods is not None:
            bases.append(methods)
        elif one is cls:
            bases.append(cls)
    return tuple(bases)


def has_redirected_methods(cls):
    """Whether the methods of a class, or of its base classes, call torch's dropout functions."""
    return not is_own_class(cls) and any(_redirected_class(one) is not None for one in cls.__mro__)


_REDIRECTED_METHODS = {}  # redirected class: tuple of _RedirectedMethod


@made_once
def _redirected_class(cls):
    """A subclass of `cls` with redirected methods; None if no method needs it."""
    if not is_searched(cls):
        return None
    methods = {
        name: new
        for name, member in vars(cls).items()
        if name != "__init__" and (new := _redirected_member(member)) is not member
    }
    if not methods:
        return None
    subclass = look_alike(cls, (cls,), methods)
    _REDIRECTED_METHODS[subclass] = tuple(
        _RedirectedMethod(cls, subclass, name, vars(cls)[name], new)
        for name, new in methods.items()
    )
    return subclass


def _redirected_member(member):
    if isinstance(member, types.FunctionType):
        return redirected(member)
    if isinstance(member, (staticmethod, classmethod)):
        function = member.__func__
        new = redirected(function) if isinstance(function, types.FunctionType) else function
        return member if new is function else type(member)(new)
    return member


class _RedirectedMethod(NamedTuple):
    """A method ``name`` of ``cls``, and its redirected method in ``subclass``."""

    cls: type
    subclass: type
    name: str
    original: object
    redirected: object

    def follow(self):
        """Removes the redirected method as long as other code has replaced the original."""
        is_current = self.cls.__dict__.get(self.name) is self.original
        if is_current != (self.name in self.subclass.__dict__):
            if is_current:
                setattr(self.subclass, self.name, self.redirected)
            else:
                delattr(self.subclass, self.name)


def redirected_methods(bases):
    """The redirected methods of classes, a tuple."""
    return tuple(method for base in bases for method in _REDIRECTED_METHODS.get(base, ()))


def look_alike(cls, bases, members):
    """A class that looks like `cls`."""
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls)(cls.__name__, bases, {**names, **members})


def is_own_class(cls):
    """Whether a class is one of this package, or a subclass with the same `forward`."""
    return top_level_package(getattr(cls.forward, "__module__", "")) == "fused_dropout"
