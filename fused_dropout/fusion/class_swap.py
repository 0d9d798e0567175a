"""Changing the class of a module, and back."""

from fused_dropout._once import made_once
from fused_dropout.fusion.eligibility import has_global_hooks


class FusedMixin:
    """What a fused class adds in front of the class that it was made from: a mixin.

    A pattern derives from it and defines ``reason_not_fusable`` and ``fused_forward``. In
    evaluation, and where a child has been changed since, a module computes what it always did, by
    the forward of the class that it was made from.
    """

    #: Methods of the old class in whose place `fused_forward` works.
    bypassed_methods = ("forward",)

    @staticmethod
    def reason_not_fusable(module):
        """Why a module cannot be fused; None if it can, "" where there is nothing to fuse.

        Asked at every call too, so it is quick.
        """
        raise NotImplementedError

    def in_training(self):
        return self.training

    def fused_forward(self, *args, **kwargs):
        raise NotImplementedError

    def forward(self, *args, **kwargs):
        if (
            self.in_training()
            and not has_global_hooks()
            and self.has_original_methods()
            and self.reason_not_fusable(self) is None
        ):
            return self.fused_forward(*args, **kwargs)
        return self.unfused_forward(*args, **kwargs)

    def has_original_methods(self):
        """Whether nobody has exchanged a method since, in the old class or the module.

        A forward of the module's own is no matter: it got here by calling this class's.
        """
        return all(
            getattr(self._original_class, name) is method
            and (name == "forward" or name not in self.__dict__)
            for name, method in self._original_methods
        )

    def unfused_forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)

    def _get_name(self):
        return f"Fused{super()._get_name()}"

    def __reduce_ex__(self, protocol):
        fused = type(self)
        if fused not in _ORIGINS:  # somebody changed the class again, and has to see to it
            return super().__reduce_ex__(protocol)
        # The fused class has no name that it could be imported by.
        mixin, cls = _ORIGINS[fused]
        parts = super().__reduce_ex__(2)
        construct, *arguments = (cls if one is fused else one for one in (parts[0], *parts[1]))
        return (_new, (mixin, cls, construct, *arguments), *parts[2:])


_ORIGINS = {}  # fused class: (mixin, the class that it was made from)


@made_once
def fused_class(mixin, cls):
    """The class of a fused `cls`.

    It keeps the name: wrapping policies of distributed training and much else go by names.
    """
    fused = type(
        cls.__name__,
        (mixin, cls),
        {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "_original_class": cls,
            "_original_methods": tuple(
                (name, getattr(cls, name)) for name in mixin.bypassed_methods
            ),
        },
    )
    _ORIGINS[fused] = (mixin, cls)
    return fused


def _new(mixin, cls, construct, *arguments):
    module = construct(*arguments)
    module.__class__ = fused_class(mixin, cls)
    return module


def is_fused(module):
    return isinstance(module, FusedMixin) or unfused_class(type(module)) is not None


def unfused_class(cls):
    """The class that a fused class was made from; None if it is no fused class."""
    return _ORIGINS[cls][1] if cls in _ORIGINS else None


def declare_fused_class(fused, cls):
    """Makes a class that somebody wrote one that :func:`unfused_class` knows."""
    _ORIGINS[fused] = (None, cls)
