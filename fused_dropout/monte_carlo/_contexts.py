"""Contexts in which some modules drop. They may overlap in several threads and end in any order.

`training` flags and the switch of torch's fast path are shared by the whole process. Their original
values are stored when the first context that covers them begins, and restored when the last one
ends.
"""

import threading
from contextlib import ContextDecorator

import torch

# Reentrant, as the garbage collector can end a context while the same thread begins another.
_LOCK = threading.RLock()
_ACTIVE = []  # entries in the order in which they began
_FLAGS = {}  # {id of a module in an active entry: (the module, its original flag)}
_FAST_PATH = []  # whether torch's fast path was enabled before the first entry; empty if none


class _Entry:
    """One entered context: the flag that it needs for each module."""

    def __init__(self, function, model, layers):
        self.function = function
        self.model = type(model).__name__
        self.thread = threading.get_ident()
        drop = {id(layer) for layer in layers.values()}
        self.modules = {id(module): module for module in model.modules()}
        self.flags = {key: key in drop for key in self.modules}

    def begin(self):
        with _LOCK:
            self._check()
            for key, module in self.modules.items():
                _FLAGS.setdefault(key, (module, module.training))
            if not _FAST_PATH:
                _FAST_PATH.append(torch.backends.mha.get_fastpath_enabled())
            _ACTIVE.append(self)
            torch.backends.mha.set_fastpath_enabled(False)
            for key, module in self.modules.items():
                module.training = self.flags[key]

    def end(self):
        """Ends the entry. If it is interrupted, call it again to finish."""
        with _LOCK:
            if self in _ACTIVE:
                _ACTIVE.remove(self)
            for key, module in self.modules.items():
                if key not in _FLAGS:
                    continue
                for entry in reversed(_ACTIVE):
                    if key in entry.flags:
                        module.training = entry.flags[key]
                        break
                else:
                    module.training = _FLAGS[key][1]
                    del _FLAGS[key]
            if not _ACTIVE and _FAST_PATH:
                torch.backends.mha.set_fastpath_enabled(_FAST_PATH[0])
                _FAST_PATH.clear()

    def _check(self):
        for entry in _ACTIVE:
            if entry.thread == self.thread:
                continue
            for key, module in self.modules.items():
                if entry.flags.get(key, self.flags[key]) != self.flags[key]:
                    raise RuntimeError(
                        f"{self.function}: another thread is in mc_mode or mc_dropout of "
                        f"{entry.model}, where a {type(module).__name__} of this model "
                        f"{'does not drop' if self.flags[key] else 'drops'}, but here it should"
                        f"{'' if self.flags[key] else ' not'}; use a copy of the model in each "
                        "thread"
                    )


class Dropping(ContextDecorator):
    """The context manager that `fused_dropout.mc_mode` returns. It can be entered several times."""

    entries = ()

    def __init__(self, function, model, layers):
        self.arguments = (function, model, layers)
        self.entries = []

    def _recreate_cm(self):
        return Dropping(*self.arguments)  # a new context for each call of a decorated function

    def __enter__(self):
        entry = _Entry(*self.arguments)
        self.entries.append(entry)
        try:
            entry.begin()
            return self.arguments[2]
        except BaseException:
            self._leave()
            raise

    def __exit__(self, *_):
        self._leave()

    def __del__(self):
        # An interruption before the body of the `with` statement skips `__exit__`.
        while self.entries:
            self._leave()

    def _leave(self):
        with _LOCK:
            thread = threading.get_ident()
            own = [entry for entry in self.entries if entry.thread == thread]
            entry = (own or self.entries)[-1]
            try:
                entry.end()
            except BaseException:
                entry.end()  # interrupted
                raise
            self.entries.remove(entry)
