"""Replaces the class of a module by a fused subclass of it, and restores it."""

import functools
import types

import torch

from fused_dropout._once import made_once
from fused_dropout.fusion.eligibility import has_global_hooks, runs_kernels, top_level_package
from fused_dropout.fusion.redirect import is_searched, redirected


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

    #: Whether `fused_forward` does so for the dropout functions that the original `forward` calls.
    fuses_calls = False

    #: The dropout functions that `forward` calls, as :func:`~.redirect.dropout_calls` returns them;
    #: None if the code of the class shows them.
    calls = None

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

    def forward(self, *args, **kwargs):
        if self.in_training() and _have_kernels(args, kwargs) and self.reason_unfused() is None:
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
        if not torch.compiler.is_compiling():
            _forget_replaced_methods(type(self))
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
        mixin, cls = _ORIGINS[fused]
        parts = super().__reduce_ex__(2)
        construct, *arguments = (cls if one is fused else one for one in (parts[0], *parts[1]))
        return (_new, (mixin, cls, construct, *arguments), *parts[2:])


def _have_kernels(args, kwargs):
    """Whether the device of a call has kernels: that of its first argument."""
    x = args[0] if args else next(iter(kwargs.values()), None)
    return not isinstance(x, torch.Tensor) or runs_kernels(x)


_ORIGINS = {}  # fused class: (mixin, original class)


@made_once
def fused_class(mixin, cls):
    """The fused class of `cls`.

    It has the name of `cls`, because other code looks classes up by name, such as the wrapping
    policies of distributed training. Its `forward` has the signature and the docstring of the
    original one, which `torch.export`, ONNX exporters and trainers read.
    """
    fused = _make_class(
        cls,
        (mixin, *(redirected_bases(cls) if mixin.redirects else (cls,))),
        {
            "_original_class": cls,
            "_original_methods": tuple(
                (name, getattr(cls, name)) for name in mixin.bypassed_methods
            ),
        },
    )
    if isinstance(fused.forward, types.FunctionType):
        fused.forward = _with_signature_of(fused.forward, cls.forward)
    _ORIGINS[fused] = (mixin, cls)
    return fused


def _make_class(cls, bases, members):
    """A class that looks like `cls`."""
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(cls)(cls.__name__, bases, {**names, **members})


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


_REDIRECTED_METHODS = {}  # redirected class: {name: (redirected method, original method)}


@made_once
def _redirected_class(cls):
    """A subclass of `cls` with redirected methods; None if no method needs it."""
    if not is_searched(cls):
        return None
    methods = {
        name: (new, member)
        for name, member in vars(cls).items()
        if (new := _redirected_member(member)) is not member
    }
    if not methods:
        return None
    new = _make_class(cls, (cls,), {name: method for name, (method, _) in methods.items()})
    _REDIRECTED_METHODS[new] = methods
    return new


def _redirected_member(member):
    if isinstance(member, types.FunctionType):
        return redirected(member)
    if isinstance(member, (staticmethod, classmethod)):
        function = member.__func__
        new = redirected(function) if isinstance(function, types.FunctionType) else function
        return member if new is function else type(member)(new)
    return member


def _forget_replaced_methods(fused):
    """Removes redirected methods whose original was replaced after the class was fused."""
    for cls in fused.__mro__:
        for name, (new, original) in _REDIRECTED_METHODS.get(cls, {}).items():
            is_current = vars(cls.__mro__[1]).get(name) is original
            if not is_current and vars(cls).get(name) is new:
                delattr(cls, name)


def _new(mixin, cls, construct, *arguments):
    module = construct(*arguments)
    module.__class__ = fused_class(mixin, cls)
    return module


def is_own_class(cls):
    """Whether a class is one of this package, or a subclass with the same `forward`."""
    return top_level_package(getattr(cls.forward, "__module__", "")) == "fused_dropout"


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


def declare_fused_class(fused, cls):
    """Records a fused class that a user wrote, so that :func:`unfused_class` knows it."""
    _ORIGINS[fused] = (None, cls)
