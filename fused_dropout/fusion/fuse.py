"""``fuse``, ``unfuse`` and ``fused``."""

import threading
from contextlib import contextmanager

from torch import nn

from fused_dropout.fusion.class_swap import is_fused, unfused_class
from fused_dropout.fusion.eligibility import class_name
from fused_dropout.fusion.registry import chosen_patterns
from fused_dropout.fusion.report import FusionError, FusionReport, Place


def fuse(model, patterns="auto", dry_run=False, strict=False):
    """Makes the modules of a model that a pattern matches use this package's kernels, in place.

    Each of these modules gets a class derived from its own, and nothing else changes: parameters,
    buffers, children, hooks and attributes stay the same objects, so that state dicts, optimisers,
    ``isinstance``, ``pickle`` and ``deepcopy`` go on as before. In training mode a fused module
    computes the same function with the same distribution of masks, from the masks of the
    random-number contract; in evaluation mode it is the forward of its old class that runs. Each
    call reads the present ``p`` and ``training`` of the dropout layers inside, and a module whose
    children got hooks, parametrisations or other classes meanwhile falls back to its old forward.

    Args:
        model: a ``torch.nn.Module``; it is looked through with everything inside.
        patterns: "auto" for all, or a list of groups: "dropout", "sequential", "transformer"
            (torch.nn's layers), "transformers", "timm", "torchvision", "own" (see
            :func:`register_pattern`).
        dry_run: change nothing, report only.
        strict: raise, and change nothing, if any place that a pattern matches has to be left alone.

    Returns:
        FusionReport: each place that was matched, fused with what or left alone and why. Modules
        that are fused already are listed as such and stay as they are.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``patterns`` has an unknown name.
        FusionError: see ``strict``; it has the ``report``.
    """
    _check_model("fuse", model)
    patterns = chosen_patterns(patterns)
    found = [
        found
        for name, module in model.named_modules()
        if (found := _match(name, module, patterns)) is not None
    ]
    report = FusionReport([place for place, _, _ in found], dry_run)
    if strict and report.skipped:
        raise FusionError(report)
    if not dry_run:
        _set_classes([(module, cls) for _, module, cls in found if cls is not None])
    return report


def unfuse(model):
    """Gives every module of a model that was fused its old class back, in place.

    Args:
        model: a ``torch.nn.Module``; one that was never fused stays as it is.

    Returns:
        torch.nn.Module: ``model`` itself.

    Raises:
        TypeError: ``model`` is no module.
        RuntimeError: something else changed the class of a fused module since, as PyTorch's
            ``fully_shard`` does; nothing is changed then.
    """
    _check_model("unfuse", model)
    changes = []
    for name, module in model.named_modules():
        cls = unfused_class(type(module))
        if cls is not None:
            changes.append((module, cls))
        elif is_fused(module):
            raise RuntimeError(
                f"unfuse: the class of {name or 'the model'} was changed since it was fused: it is "
                f"{class_name(module)} now. Unfuse first, or undo that change"
            )
    _set_classes(changes)
    return model


# Modules that contexts have fused: how many of those have not ended.
_CONTEXT_COUNTS = {}
_CONTEXT_LOCK = threading.RLock()


@contextmanager
def fused(model, patterns="auto", strict=False):
    """A context in which a model is fused.

    On leaving, also by an exception, those modules are unfused that were not fused before. Contexts
    may overlap, in one thread or in several: a module is unfused when the last of them ends.
    Arguments and errors are those of :func:`fuse`.

    Yields:
        FusionReport: see :func:`fuse`.
    """
    _check_model("fused", model)
    with _CONTEXT_LOCK:
        before = {module for module in model.modules() if is_fused(module)} - _CONTEXT_COUNTS.keys()
        report = fuse(model, patterns, strict=strict)
        inside = {module for module in model.modules() if is_fused(module)} - before
        for module in inside:
            _CONTEXT_COUNTS[module] = _CONTEXT_COUNTS.get(module, 0) + 1
    try:
        yield report
    finally:
        with _CONTEXT_LOCK:
            for module in inside:
                _CONTEXT_COUNTS[module] -= 1
                if not _CONTEXT_COUNTS[module]:
                    del _CONTEXT_COUNTS[module]
            # Modules can have been taken out of the model, and others put in.
            for module in inside.union(model.modules()) - before - _CONTEXT_COUNTS.keys():
                cls = unfused_class(type(module))
                if cls is not None:
                    module.__class__ = cls


def _match(name, module, patterns):
    """``(place, module, new class or None)``; None where no pattern has anything to fuse."""
    fused = is_fused(module)
    cls = unfused_class(type(module)) or type(module)
    for pattern in patterns:
        if not pattern.matches(cls):
            continue
        new = None
        if fused:
            reason, text = None, "is fused already"
        else:
            reason = pattern.reason_not_fusable(module)
            if reason == "":
                continue
            if reason is None and "forward" in module.__dict__:
                reason = "has a forward of its own"
            text = reason
            if reason is None:
                new, text = pattern.fused_class(cls), pattern.what(module)
        return Place(name, cls.__qualname__, pattern.group, reason is None, text), module, new
    return None


def _set_classes(changes):
    """All or nothing: Python refuses classes of another layout."""
    before = []
    try:
        for module, cls in changes:
            before.append((module, type(module)))
            module.__class__ = cls
    except TypeError:
        for module, cls in before:
            module.__class__ = cls
        raise


def _check_model(function, model):
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}: model is of type {type(model).__name__}, but expected a torch.nn.Module"
        )
