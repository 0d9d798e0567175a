"""The patterns that :func:`fused_dropout.fuse` knows, in groups, and how patterns are added."""

import importlib
import pkgutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import nn

from fused_dropout.fusion import patterns as pattern_files
from fused_dropout.fusion.class_swap import declare_fused_class, fused_class, mixin_of
from fused_dropout.fusion.eligibility import is_replaced


class Pattern(NamedTuple):
    """One kind of module that can be fused.

    Attributes:
        group: the name that selects it in the argument ``patterns`` of ``fuse``.
        matches: function of a class; whether instances of the class are candidates.
        reason_not_fusable: function of a candidate module; the reason why it cannot be fused, None
            if it can, "" if it has nothing to fuse.
        fused_class: function of a module that is not fused; the fused class for it.
        made: function of a fused class; whether the pattern has made it.
        describe: function of a module; what of it is fused, for the report.
    """

    group: str
    matches: Callable
    reason_not_fusable: Callable
    fused_class: Callable
    made: Callable
    describe: Callable


_PATTERNS = []  # the first one that matches is used

#: The groups of patterns for code of any origin. They come last, in this order, and also serve
#: modules that the pattern of a library matches and cannot fuse.
STRUCTURE, FUNCTIONAL = OF_ANY_ORIGIN = "structure", "functional"


def add_pattern_of_modules(pattern):
    """Adds a :class:`Pattern` whose fused class depends on the module, not only on its class."""
    _PATTERNS.append(pattern)


def add_pattern(group, mixin, matches, description, class_not_fusable=None):
    """Adds a pattern whose fused classes are made from a :class:`~.class_swap.FusedMixin`.

    Args:
        group, matches: see :class:`Pattern`.
        mixin: a subclass of :class:`~.class_swap.FusedMixin`.
        description: what is fused, for the report: a text, or a function of a module.
        class_not_fusable: function of a class that matches; the reason why no instance of it can be
            fused, or None.
    """

    def reason_not_fusable(module):
        reason = None if class_not_fusable is None else class_not_fusable(type(module))
        return mixin.reason_not_fusable(module) if reason is None else reason

    _PATTERNS.append(
        Pattern(
            group,
            matches,
            reason_not_fusable,
            lambda module: fused_class(mixin, type(module)),
            lambda fused: mixin_of(fused) is mixin,
            description if callable(description) else lambda module: description,
        )
    )


def add_subclass_pattern(group, mixin, base, description):
    """Adds a pattern for a class and for its subclasses that compute the same function.

    Subclasses that override one of ``mixin.bypassed_methods`` are skipped. All are skipped if one
    of these methods of ``base`` was replaced.
    """

    def class_not_fusable(cls):
        for name in mixin.bypassed_methods:
            if getattr(cls, name) is not getattr(base, name):
                return f"{cls.__qualname__} overrides {name}"
            if is_replaced(base, name):
                return f"{base.__qualname__}.{name} was replaced"
        return None

    add_pattern(group, mixin, lambda cls: issubclass(cls, base), description, class_not_fusable)


def register_pattern(cls, fused_cls, check=None):
    """Makes :func:`fused_dropout.fuse` replace a class of yours by a fused class of yours.

    ``fuse`` sets ``__class__`` of each module whose class is exactly ``cls`` to ``fused_cls`` and
    changes nothing else. So ``fused_cls`` has to work with the attributes that ``cls`` sets up.
    Registering a class again replaces its former registration.

    Args:
        cls: a subclass of ``torch.nn.Module``.
        fused_cls: a subclass of ``cls`` that defines ``forward``.
        check: a function of a module that returns None if the module can be fused, or a text that
            says why not. ``fuse`` calls it once for each module; calls of the fused module do not.
            None: every module can be fused.

    Raises:
        TypeError: ``cls`` or ``fused_cls`` is not such a class, or ``check`` is not callable.

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
            f"{cls.__qualname__}, because fuse changes only the class of a module"
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
            lambda module: fused_cls,
            lambda fused: fused is fused_cls,
            lambda module: f"by {fused_cls.__qualname__}",
        ),
    )


def chosen_patterns(groups):
    """The patterns that the argument ``patterns`` of ``fuse`` selects."""
    _load_patterns()
    known = list(dict.fromkeys(["own", *(pattern.group for pattern in _PATTERNS), *_LIBRARIES]))
    patterns = sorted(_PATTERNS, key=_rank)
    if isinstance(groups, str) and groups == "auto":
        return patterns
    wanted = [groups] if isinstance(groups, str) else groups
    if not isinstance(wanted, Iterable):
        raise TypeError(
            f"fuse: patterns is {groups!r}, but expected 'auto' or a list of names of groups"
        )
    wanted = list(wanted)
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"fuse: patterns contains {name!r}, but expected 'auto' or names from "
                + ", ".join(map(repr, known))
            )
    return [pattern for pattern in patterns if pattern.group in wanted]


def _rank(pattern):
    return OF_ANY_ORIGIN.index(pattern.group) + 1 if pattern.group in OF_ANY_ORIGIN else 0


def import_patterns(module_name):
    """Imports a file of patterns, or all files of a folder; importing a file adds its patterns."""
    module = importlib.import_module(module_name)
    for file in pkgutil.iter_modules(getattr(module, "__path__", ())):
        importlib.import_module(f"{module_name}.{file.name}")


def _find_libraries():
    """{name of a library: its file or folder of patterns}. It has the name of the library."""
    other_names = {"hugging_face": "transformers"}
    return {
        other_names.get(file.name, file.name): f"{pattern_files.__name__}.{file.name}"
        for file in pkgutil.iter_modules(pattern_files.__path__)
        if file.name != "torch_nn"
    }


# The patterns of a library are imported only if the library is: no model of it can exist before.
_LIBRARIES = _find_libraries()
_LOADED = set()
_LOAD_LOCK = threading.Lock()  # a second thread waits until the patterns are complete


def _load_patterns():
    with _LOAD_LOCK:
        for library, module_name in _LIBRARIES.items():
            if library not in sys.modules or library in _LOADED:
                continue
            _LOADED.add(library)
            try:
                import_patterns(module_name)
            except (ImportError, AttributeError) as error:
                version = getattr(sys.modules[library], "__version__", "")
                warnings.warn(
                    f"fuse: some patterns for {library} {version} cannot be loaded, because this "
                    f"version of {library} differs from the expected one: {error}",
                    stacklevel=4,
                )
