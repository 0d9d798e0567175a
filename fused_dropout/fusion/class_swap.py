"""Replaces the class of a module by a fused subclass of it, and restores it."""

import functools
import types

import torch

from fused_dropout._once import made_once
from fused_dropout.fusion.eligibility import has_global_hooks, runs_kernels
from fused_dropout.fusion.redirected_classes import (
    look_alike,
    redirected_bases,
    redirected_methods,
)


class FusedMixin:
    """The mixin that a fused class adds in front of the original class.

    A pattern derives from it and defines :meth:`reason_not_fusable` and :meth:`fused_forward`. The
    module runs the original ``forward`` in evaluation, and in training if it cannot be fused any
    more, for example because a child got a hook after ``fuse``.
    """

    #: Methods of the original class that `fused_forward` does not call.
    bypassed_methods = ("forward",)

    #: Whether the methods of the original class are redirected too (see ``redirect.py``), for calls
    #: that run the original ``forward``.
    redirects = True

    #: Names of the dropout layers among the children that `fused_forward` computes in a kernel
    #: together with what is beside them.
    fused_dropouts = ()

    #: Whether `fused_forward` does so for the dropout functions that the original `forward` calls:
    #: True, False, or the line numbers of those for which it does.
    fuses_calls = False

    @classmethod
    def members(cls, original, variant):
        """``{name: member}`` of the fused class for `original`, beside those of the mixin.

        A mixin whose fused classes depend on more than the original class overrides it. `variant`
        says on what: anything that can be hashed and pickled.
        """
        return {}

    @staticmethod
    def reason_not_fusable(module):
        """The reason why a module cannot be fused; None if it can, "" if there is nothing to fuse.

        ``fuse`` calls it, and so does every ``forward`` in training: it has to be fast.
        """
        raise NotImplementedError

    @classmethod
    def dropouts_in_kernels(cls, module):
        """The dropout layers that a kernel computes together with what is beside them."""
        return [module.get_submodule(name) for name in cls.fused_dropouts]

    def reason_unfused(self):
        """The reason why calls in training run the original `forward` now; None if they do not."""
        if has_global_hooks():
            return "hooks for all modules are registered"
        if not self.has_original_methods():
            return "a method of its class was replaced"
        reason = self.reason_not_fusable(self)
        return "has nothing to fuse any more" if reason == "" else reason

    def in_training(self):
        """Whether `fused_forward` may run: the module or a dropout child is in training mode."""
        return self.training

    def fused_forward(self, *args, **kwargs):
        """Computes what ``forward`` of the original class computes, with the fused kernels."""
        raise NotImplementedError

    def runs_fused(self, args, kwargs):
        """Whether a call with these arguments runs `fused_forward`."""
        return self.in_training() and _have_kernels(args, kwargs) and self.reason_unfused() is None

    def forward(self, *args, **kwargs):
        if self.runs_fused(args, kwargs):
            return self.fused_forward(*args, **kwargs)
        return self.unfused_forward(*args, **kwargs)

    def has_original_methods(self):
        """Whether the bypassed methods are still those of the time when the class was fused.

        They can be replaced in the original class or set on the instance. A ``forward`` that is set
        on the instance does not count: it runs first, and this code runs because it was called.
        """
        for name, method in self._original_methods:
            if getattr(self._original_class, name) is not method:
                return False
            if name != "forward" and name in self.__dict__:
                return False
        return True

    def unfused_forward(self, *args, **kwargs):
        if isinstance(_first(args, kwargs), torch.fx.Proxy):
            # `torch.fx.wrap` and the options of tracers know functions by their original names.
            return self._original_class.forward(self, *args, **kwargs)
        if not torch.compiler.is_compiling():
            for method in self._redirected_methods:
                method.follow()
        return super().forward(*args, **kwargs)

    def _get_name(self):
        return f"Fused{super()._get_name()}"

    def __prepare_scriptable__(self):
        raise RuntimeError(
            f"torch.jit.script: {type(self).__qualname__} is fused by fused_dropout, and "
            "TorchScript does not compile fused modules. Call fused_dropout.unfuse(model) before, "
            "or use torch.jit.trace, torch.export or torch.compile, which take fused models"
        )

    def __reduce_ex__(self, protocol):
        fused = type(self)
        if fused not in _ORIGINS:  # the class was changed again; that code has to pickle it
            return super().__reduce_ex__(protocol)
        # A fused class cannot be imported by name, so the pickle stores what it is made from.
        mixin, cls, *variant = _ORIGINS[fused]
        parts = super().__reduce_ex__(2)
        construct, *arguments = (cls if one is fused else one for one in (parts[0], *parts[1]))
        made_from = (mixin, cls, *variant)
        return (
            restore_or_unfuse_before_saving,
            (made_from, construct, *arguments),
            *parts[2:],
        )


def _first(args, kwargs):
    return args[0] if args else next(iter(kwargs.values()), None)


def _have_kernels(args, kwargs):
    """Whether the device of a call has kernels: that of its first argument.

    A proxy of torch.fx has no device, and a fused module looks at the sizes of its inputs.
    """
    x = _first(args, kwargs)
    return runs_kernels(x) if isinstance(x, torch.Tensor) else not isinstance(x, torch.fx.Proxy)


# {fused class: the arguments of `fused_class`}. The mixin is None for a class that a user wrote.
_ORIGINS = {}


@made_once
def fused_class(mixin, cls, *variant):
    """The fused class of `cls`; ``variant``: see :meth:`FusedMixin.members`.

    It has the name of `cls`, because other code looks classes up by name, such as the wrapping
    policies of distributed training. Its `forward` has the signature and the docstring of the
    original one, which `torch.export`, ONNX exporters and trainers read.
    """
    bases = redirected_bases(cls) if mixin.redirects else (cls,)
    members = mixin.members(cls, *variant) if variant else {}
    bypassed = members.get("bypassed_methods", mixin.bypassed_methods)
    fused = look_alike(
        cls,
        (mixin, *bases),
        {
            # A member, because a base class may wrap `forward` when it gets a subclass, as layers
            # of transformers do.
            "forward": _with_signature_of(mixin.forward, cls.forward),
            "_redirected_methods": redirected_methods(bases),
            "_original_class": cls,
            "_original_methods": tuple((name, getattr(cls, name)) for name in bypassed),
            **members,
        },
    )
    _ORIGINS[fused] = (mixin, cls, *variant)
    return fused


def _with_signature_of(function, original):
    copy = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(copy, original)


def restore_or_unfuse_before_saving(made_from, construct, *arguments):
    """Makes the module of a pickle. ``torch.load`` shows this name where it refuses the pickle."""
    module = construct(*arguments)
    module.__class__ = fused_class(*made_from)
    return module


def is_fused(module):
    return isinstance(module, FusedMixin) or unfused_class(type(module)) is not None


def fused_base(cls):
    """The fused class that a class is or is derived from; None if there is none.

    Other code may derive a class from a fused one, as ``fully_shard`` does.
    """
    return next((one for one in cls.__mro__ if one in _ORIGINS), None)


def unfused_class(cls):
    """The original class of a fused class; None if `cls` is not a fused class."""
    return _ORIGINS[cls][1] if cls in _ORIGINS else None


def class_of(module):
    """The class of a module before it was fused."""
    return unfused_class(type(module)) or type(module)


def mixin_of(cls):
    """The mixin of a fused class; None if a user wrote the class, or if it is not fused."""
    return _ORIGINS[cls][0] if cls in _ORIGINS else None


def declare_fused_class(fused, cls):
    """Records a fused class that a user wrote, so that :func:`unfused_class` knows it."""
    _ORIGINS[fused] = (None, cls)
