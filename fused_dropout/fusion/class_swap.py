"""Replaces the class of a module by a fused subclass of it, and restores it."""

from fused_dropout._once import made_once
from fused_dropout.fusion.eligibility import has_global_hooks


class FusedMixin:
    """The mixin that a fused class adds in front of the original class.

    A pattern derives from it and defines :meth:`reason_not_fusable` and :meth:`fused_forward`. The
    module runs the original ``forward`` in evaluation, and in training if it cannot be fused any
    more, for example because a child got a hook after ``fuse``.
    """

    #: Methods of the original class that `fused_forward` does not call.
    bypassed_methods = ("forward",)

    @staticmethod
    def reason_not_fusable(module):
        """The reason why a module cannot be fused; None if it can, "" if there is nothing to fuse.

        ``fuse`` calls it, and so does every ``forward`` in training: it has to be fast.
        """
        raise NotImplementedError

    def in_training(self):
        """Whether `fused_forward` may run: the module or a dropout child is in training mode."""
        return self.training

    def fused_forward(self, *args, **kwargs):
        """Computes what ``forward`` of the original class computes, with the fused kernels."""
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
        """Whether the bypassed methods are still those of the time when the class was fused.

        They can be replaced in the original class or set on the instance. A ``forward`` that is set
        on the instance does not count: it runs first, and this code runs because it was called.
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
        if fused not in _ORIGINS:  # the class was changed again; that code has to pickle it
            return super().__reduce_ex__(protocol)
        # A fused class cannot be imported by name, so the pickle stores what it is made from.
        mixin, cls = _ORIGINS[fused]
        parts = super().__reduce_ex__(2)
        construct, *arguments = (cls if one is fused else one for one in (parts[0], *parts[1]))
        return (_new, (mixin, cls, construct, *arguments), *parts[2:])


_ORIGINS = {}  # fused class: (mixin, original class)


@made_once
def fused_class(mixin, cls):
    """The fused class of `cls`.

    It has the name of `cls`, because other code looks classes up by name, such as the wrapping
    policies of distributed training.
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
    """The original class of a fused class; None if `cls` is not a fused class."""
    return _ORIGINS[cls][1] if cls in _ORIGINS else None


def declare_fused_class(fused, cls):
    """Records a fused class that a user wrote, so that :func:`unfused_class` knows it."""
    _ORIGINS[fused] = (None, cls)
