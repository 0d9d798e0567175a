"""``fuse``, ``unfuse``, ``fused`` and ``report``."""

import threading
from contextlib import contextmanager
from dataclasses import replace

from torch import nn

from fused_dropout.fusion.class_swap import FusedMixin, fused_base, is_fused, unfused_class
from fused_dropout.fusion.eligibility import class_name, device_not_fusable, is_sharded
from fused_dropout.fusion.fusion_report import FusionError, FusionReport, Site
from fused_dropout.fusion.registry import OF_ANY_ORIGIN, chosen_patterns
from fused_dropout.fusion.sites import dropout_sites
from fused_dropout.fusion.step import dropout_calls_of_step


def fuse(model, patterns="auto", dry_run=False, strict=False):
    """Makes the modules of a model that match a pattern use fused kernels, in place.

    Each matching module gets a class that is derived from its own class. Nothing else changes:
    parameters, buffers, children, hooks and attributes stay the same objects, so state dicts,
    optimisers, ``isinstance``, ``pickle`` and ``deepcopy`` work as before.

    In training mode a fused module computes the same function as before and draws its dropout masks
    from the same distribution. The masks follow this package's random-number contract instead of
    torch's generator. In evaluation mode the original ``forward`` runs. Every call reads the
    current ``p`` and ``training`` of the dropout layers inside the module. If a child got hooks, a
    parametrisation or another class after ``fuse``, the module runs its original ``forward``.

    Args:
        model: a ``torch.nn.Module``; all its submodules and the module itself are examined.
        patterns: "auto" for all patterns, or a list of groups: "dropout", "sequential",
            "torch.nn" (its transformer layers), "transformers", "timm", "torchvision", "structure"
            (any code with known shapes of expressions), "functional" (modules that call functions
            such as ``F.dropout``), "own" (see :func:`register_pattern`).
        dry_run: change nothing, only return the report.
        strict: if a module matches a pattern but cannot be fused, raise an error and change
            nothing.

    Returns:
        FusionReport: each module that matches a pattern, with what is fused or the reason why it
        was skipped. Modules that are already fused are listed as such and stay as they are.

    Raises:
        TypeError: ``model`` is not a module, or ``patterns`` is neither a string nor a list.
        ValueError: ``patterns`` contains an unknown group.
        FusionError: see ``strict``; its attribute ``report`` is the report.
    """
    _check_model("fuse", model)
    patterns = chosen_patterns(patterns)
    reason_of = _reasons_unfused(model)
    found = [
        one
        for name, module in model.named_modules()
        for one in _matches(model, name, module, patterns, reason_of, "is already fused")
    ]
    sites = [site for site, _, _ in found]
    changes = {module: cls for _, module, cls in found if cls is not None}
    fails = strict and not all(site.fused for site in sites)
    report = FusionReport(
        sites,
        dry_run or fails,
        dropout_sites(
            model,
            lambda module: changes.get(module, type(module)),
            lambda module: None if module in changes else reason_of(module),
        ),
    )
    if fails:
        raise FusionError(report)
    if not dry_run:
        _set_classes(changes.items())
    return report


def report(model, *inputs, strict=False, **named_inputs):
    """Reports what is fused in a model now, and which dropout of a training step torch still runs.

    Modules that were fused and run their original ``forward`` now, for example because a child got
    a hook or an adapter, are listed as skipped, with the reason.

    Args:
        model: a ``torch.nn.Module``, fused or not. It is not changed.
        inputs, named_inputs: of one step. If there are any, the model runs its ``forward`` once in
            training mode, and ``dropout_sites`` of the report has an entry for each dropout call
            that was really made. Buffers, flags and random-number generators get back the values
            that they had before. Without inputs the sites are read from the code of the modules.
        strict: if a fused module does not run fused, raise an error.

    Returns:
        FusionReport: see :func:`fuse`.

    Raises:
        TypeError: ``model`` is not a module.
        FusionError: see ``strict``; its attribute ``report`` is the report.
    """
    _check_model("report", model)
    patterns, reason_of = chosen_patterns("auto"), _reasons_unfused(model)
    sites = [
        site if new is None else replace(site, fused=False, text="is not fused; call fuse")
        for name, module in model.named_modules()
        if is_fused(module)
        for site, _, new in _matches(model, name, module, patterns, reason_of)
    ]
    if inputs or named_inputs:
        dropped = dropout_calls_of_step(model, inputs, named_inputs)
    else:
        dropped = dropout_sites(model, type, reason_of)
    found = FusionReport(sites, False, dropped)
    if strict and found.skipped:
        raise FusionError(found)
    return found


def unfuse(model):
    """Restores the original class of every fused module of a model, in place.

    Args:
        model: a ``torch.nn.Module``. Modules that are not fused stay as they are.

    Returns:
        torch.nn.Module: ``model`` itself.

    Raises:
        TypeError: ``model`` is not a module.
        RuntimeError: other code, such as PyTorch's ``fully_shard``, changed the class of a fused
            module after ``fuse``. No module is changed then.
    """
    _check_model("unfuse", model)
    changes = []
    for name, module in model.named_modules():
        cls = unfused_class(type(module))
        if cls is not None:
            changes.append((module, cls))
        elif is_fused(module):
            raise RuntimeError(
                f"unfuse: the class of {name or 'the model'} was changed after fuse: it is "
                f"{class_name(module)} now. Call unfuse first, or undo that change"
            )
    _set_classes(changes)
    return model


# {module: number of active `fused` contexts that fused it}
_CONTEXT_COUNTS = {}
_CONTEXT_LOCK = threading.RLock()


@contextmanager
def fused(model, patterns="auto", strict=False):
    """A context manager in which a model is fused.

    At the end of the context, also after an exception, it unfuses the modules that were not fused
    before. Contexts may overlap, in one thread or in several: a module is unfused when the last of
    its contexts ends. Arguments and errors are those of :func:`fuse`.

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
            # Code in the context may have removed modules from the model and added fused ones.
            for module in inside.union(model.modules()) - before - _CONTEXT_COUNTS.keys():
                cls = unfused_class(type(module))
                if cls is not None:
                    module.__class__ = cls


def _matches(model, name, module, patterns, reason_of, text_if_fused=None):
    """``(site, module, fused class or None)`` of the patterns that fuse a module, or cannot.

    If the pattern of a module cannot fuse it, the patterns for code of any origin are still tried,
    which gives a second site.

    Args:
        reason_of: function of a fused module: why it does not run fused now; None if it does.
        text_if_fused: the text for modules that are fused; what of them is fused if None.
    """
    fused = fused_base(type(module))
    cls = type(module) if fused is None else unfused_class(fused)
    skipped = False
    for pattern in patterns:
        if (skipped and pattern.group not in OF_ANY_ORIGIN) or not pattern.matches(cls):
            continue
        new = None
        if fused is not None and pattern.made(fused):
            reason = reason_of(module)
            text = (text_if_fused or pattern.describe(module)) if reason is None else reason
        else:
            reason = pattern.reason_not_fusable(module)
            if reason == "":
                continue
            if reason is None and "forward" in module.__dict__:
                reason = "has a forward set on the instance"
            text = reason = reason or device_not_fusable(module, model)
            if reason is None:
                new, text = pattern.fused_class(module), pattern.describe(module)
        if reason is None or not skipped:
            yield Site(name, cls.__qualname__, pattern.group, reason is None, text), module, new
        if reason is None:
            return
        skipped = True


def _reasons_unfused(model):
    """A function of a module of the model: why it runs its original ``forward`` now, or None."""
    sharded = any("FSDPModule" in map(_name, type(one).__mro__) for one in model.modules())

    def reason_of(module):
        if not isinstance(module, FusedMixin):
            return None
        reason = device_not_fusable(module, model) or module.reason_unfused()
        # fully_shard replaces the parameters of a module by full tensors when it runs.
        if sharded and any(map(is_sharded, module.parameters())):
            return None
        return reason

    return reason_of


def _name(cls):
    return cls.__name__


def _set_classes(changes):
    """Sets the class of all modules or of none: Python rejects a class of another memory layout."""
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
