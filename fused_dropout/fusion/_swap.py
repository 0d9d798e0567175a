"""Changing the class of a module, and back."""

import functools

from fused_dropout.fusion._children import watched_everywhere


class Fused:
    """What a fused class adds in front of the class that it was made from: a mixin.

    A pattern derives from it and defines ``why_not`` and ``fused_forward``. In evaluation, and
    where a child has been changed since, a module computes what it always did, by the forward of
    the class that it was made from.
    """

    @staticmethod
    def why_not(module):
        """Why a module cannot be fused; None if it can, "" where there is nothing to fuse.

        Asked at every call too, so it is quick.
        """
        raise NotImplementedError

    def in_training(self):
        return self.training

    def fused_forward(self, *args, **kwargs):
        raise NotImplementedError

    def forward(self, *args, **kwargs):
        if self.in_training() and not watched_everywhere() and self.why_not(self) is None:
            return self.fused_forward(*args, **kwargs)
        return self.unfused_forward(*args, **kwargs)

    def unfused_forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)

    def _get_name(self):
        return f"Fused{super()._get_name()}"

    def __reduce_ex__(self, protocol):
        # The fused class has no name that it could be imported by.
        _, arguments, *rest = super().__reduce_ex__(2)
        return (_new, (*_PARTS[type(self)], *arguments[1:]), *rest)


_PARTS = {}  # fused class: (mixin, the class that it was made from)


@functools.cache
def fused_class(mixin, cls):
    """The class of a fused `cls`.

    It keeps the name: wrapping policies of distributed training and much else go by names.
    """
    fused = type(
        cls.__name__,
        (mixin, cls),
        {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__},
    )
    _PARTS[fused] = (mixin, cls)
    return fused


def _new(mixin, cls, *arguments):
    fused = fused_class(mixin, cls)
    return fused.__new__(fused, *arguments)


def unfused_class(cls):
    """The class that a fused class was made from; None if it is no fused class."""
    return _PARTS[cls][1] if cls in _PARTS else None


def declare_fused_class(fused, cls):
    """Makes a class that somebody wrote one that :func:`unfused_class` knows."""
    _PARTS[fused] = (None, cls)
