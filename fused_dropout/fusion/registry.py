"""The patterns that :func:`fused_dropout.fuse` knows, in groups, and where one adds one's own."""

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn

from fused_dropout.fusion.class_swap import declare_fused_class, fused_class
from fused_dropout.fusion.eligibility import is_replaced


class Pattern(NamedTuple):
    """One kind of module that can be fused.

    group: by which name the argument ``patterns`` of ``fuse`` chooses it.
    matches: whether a class is of this kind, judged by the class alone.
    reason_not_fusable: why a module of this kind cannot be fused; None if it can, and an empty text
        where there is nothing to fuse.
    fused_class: the class that takes the place of a class.
    what: says in words what of a module is fused.
    """

    group: str
    matches: Callable
    reason_not_fusable: Callable
    fused_class: Callable
    what: Callable


_PATTERNS = []

# Patterns of other packages are loaded once those are: a model of theirs cannot exist before.
_LIBRARIES = {
    "transformers": "fused_dropout.fusion.patterns.hugging_face",
    "timm": "fused_dropout.fusion.patterns.timm",
    "torchvision": "fused_dropout.fusion.patterns.torchvision",
}
_LOADED = set()
_LOAD_LOCK = threading.Lock()  # nobody goes on without the patterns that another thread loads


def add_pattern(group, mixin, matches, what, class_not_fusable=None):
    """Adds a pattern whose fused classes are made from a :class:`~.class_swap.FusedMixin` mixin.

    ``what`` is a text or a function of a module; ``class_not_fusable`` tells why a class that
    matches cannot be fused at all.
    """

    def reason_not_fusable(module):
        reason = None if class_not_fusable is None else class_not_fusable(type(module))
        return mixin.reason_not_fusable(module) if reason is None else reason

    _PATTERNS.append(
        Pattern(
            group,
            matches,
            reason_not_fusable,
            lambda cls: fused_class(mixin, cls),
            what if callable(what) else lambda module: what,
        )
    )


def add_subclass_pattern(group, mixin, base, what, methods=("forward",)):
    """Adds a pattern for a class and those derived from it that compute the same.

    ``methods``: what a fused module does not call any more. A class that has its own of these is
    left alone, and so is everything if somebody has exchanged a method of ``base``.
    """

    def class_not_fusable(cls):
        for name in methods:
            if getattr(cls, name) is not getattr(base, name):
                return f"{cls.__qualname__} has a {name} of its own"
            if is_replaced(base, name):
                return f"{base.__qualname__}.{name} was exchanged"
        return None

    add_pattern(group, mixin, lambda cls: issubclass(cls, base), what, class_not_fusable)


def register_pattern(cls, fused_cls, check=None):
    """Teaches :func:`fused_dropout.fuse` a class of your own.

    Modules that are exactly of class ``cls`` become instances of ``fused_cls``: their ``__class__``
    is changed and nothing else, so ``fused_cls`` has to work with the attributes that ``cls`` sets
    up. Registering a class again replaces what was registered before.

    Args:
        cls: a subclass of ``torch.nn.Module``.
        fused_cls: a subclass of ``cls``, with a ``forward`` of its own.
        check: a function of a module that returns None if this module can be fused, or a text that
            says why not. It is asked when ``fuse`` looks at the module, not at every call. None:
            every module can be.

    Raises:
        TypeError: for anything but such classes, or a ``check`` that cannot be called.

    The group of the pattern (argument ``patterns`` of ``fuse``) is "own".

    Example::

        class FusedHead(Head):
            def forward(self, x):
                x = F.linear(x, self.fc.weight)
                return FF.bias_act_dropout(x, self.fc.bias, self.drop.p, "gelu", self.training)

        fd.register_pattern(Head, FusedHead)
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise TypeError(f"register_pattern: cls is {cls!r}, but expected a subclass of nn.Module")
    if not (isinstance(fused_cls, type) and issubclass(fused_cls, cls)) or fused_cls is cls:
        raise TypeError(
            f"register_pattern: fused_cls is {fused_cls!r}, but expected a subclass of "
            f"{cls.__qualname__}, as modules change their class and nothing else"
        )
    if check is not None and not callable(check):
        raise TypeError(f"register_pattern: check is {check!r}, but expected a function or None")

    def reason_not_fusable(module):
        reason = None if check is None else check(module)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(
                f"register_pattern: check returned {reason!r}, but expected None or a text that "
                f"says why {cls.__qualname__} cannot be fused"
            )
        return reason

    declare_fused_class(fused_cls, cls)
    _PATTERNS.insert(
        0,
        Pattern(
            "own",
            lambda other: other is cls,
            reason_not_fusable,
            lambda other: fused_cls,
            lambda module: f"by {fused_cls.__qualname__}",
        ),
    )


def chosen_patterns(patterns):
    """The patterns that the argument of ``fuse`` means."""
    _load_patterns()
    groups = list(dict.fromkeys(["own", *(pattern.group for pattern in _PATTERNS), *_LIBRARIES]))
    if isinstance(patterns, str) and patterns == "auto":
        return list(_PATTERNS)
    wanted = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(wanted, Iterable):
        raise TypeError(
            f"fuse: patterns is {patterns!r}, but expected 'auto' or a list of names of groups"
        )
    wanted = list(wanted)
    for name in wanted:
        if name not in groups:
            raise ValueError(
                f"fuse: patterns has {name!r}, but expected 'auto' or some of "
                + ", ".join(map(repr, groups))
            )
    return [pattern for pattern in _PATTERNS if pattern.group in wanted]


def _load_patterns():
    with _LOAD_LOCK:
        for package, module in _LIBRARIES.items():
            if package not in sys.modules or package in _LOADED:
                continue
            _LOADED.add(package)
            try:
                importlib.import_module(module)
            except (ImportError, AttributeError) as error:
                version = getattr(sys.modules[package], "__version__", "")
                warnings.warn(
                    f"fuse: {package} {version} has not what its patterns are made for, so that "
                    f"some are not known: {error}",
                    stacklevel=4,
                )
