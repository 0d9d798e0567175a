"""Lists the dropout sites of a model: where a training step drops something."""

import dis
import functools
import inspect
import types
from typing import NamedTuple

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fused_dropout.fusion.class_swap import FusedMixin, class_of, unfused_class
from fused_dropout.fusion.redirect import dropout_calls, functions_of
from fused_dropout.fusion.redirected_classes import has_redirected_methods, is_own_class
from fused_dropout.modules._stochastic import is_dropout, never_drops


class DropoutSite(NamedTuple):
    """A dropout layer, or a call of a dropout function in the code of a module.

    Attributes:
        name: of the module, as in ``named_modules()``.
        function: the class of the layer, or the function and the line where it is called.
        kind: "neighbours" if a kernel computes it together with what is beside it, "alone" if it
            runs alone without a stored mask, "torch" if torch runs it and stores a mask.
        reason: why torch runs it; "" for the other kinds.
    """

    name: str
    function: str
    kind: str
    reason: str = ""


def dropout_sites(model, class_of, reason_of):
    """The dropout sites of a training step.

    Layers with p = 0 and layers that their module never calls, because it only reads their p, do
    not count. Calls of functions count whatever their p, which is known when they run.

    Args:
        class_of: function of a module: its class, or the class that ``fuse`` would give it.
        reason_of: function of a module with a fused class: why it does not run fused now; None if
            it does.

    Returns:
        list of :class:`DropoutSite`.
    """
    in_kernels, only_read = set(), set()
    for module in model.modules():
        cls = class_of(module)
        if issubclass(cls, FusedMixin) and reason_of(module) is None:
            in_kernels.update(cls.dropouts_in_kernels(module))
        only_read.update(_children_only_read(module))
    found = []
    for name, module in model.named_modules():
        cls = class_of(module)
        if isinstance(module, nn.RNNBase) or is_dropout(module):
            if not is_dropout(module) or never_drops(module) or module in only_read - in_kernels:
                continue
            kind, reason = _kind_of_layer(module, cls, module in in_kernels)
            found.append(DropoutSite(name, _class_name(cls), kind, reason))
            continue
        for function, file, line in calls_of(cls):
            kind, reason = _kind_of_call(module, cls, reason_of, line)
            found.append(DropoutSite(name, f"{function} ({file}:{line})", kind, reason))
    return found


def _class_name(cls):
    return (unfused_class(cls) or cls).__qualname__


def _kind_of_layer(module, cls, in_kernel):
    if isinstance(module, nn.RNNBase):
        return "torch", (
            "torch computes all layers, and the dropout between them, in one call; for masks that "
            "are not stored use one-layer modules with fused_dropout.Dropout between them"
        )
    if in_kernel:
        return "neighbours", ""
    if issubclass(cls, FusedMixin) or is_own_class(cls):
        return "alone", ""
    if not isinstance(module, (_DropoutNd, nn.MultiheadAttention)):
        return "torch", f"{_class_name(cls)} is not known to fused_dropout"
    return "torch", "is not fused"


def _kind_of_call(module, cls, reason_of, line):
    if not issubclass(cls, FusedMixin):
        if has_redirected_methods(cls):
            return "torch", "is not fused"
        return "torch", "the code cannot be redirected"
    in_kernel = cls.fuses_calls is True or (cls.fuses_calls and line in cls.fuses_calls)
    if in_kernel and reason_of(module) is None:
        return "neighbours", ""
    return "alone", ""


@functools.cache
def calls_of(cls):
    """``(function, file, line)`` of the dropout calls in the code of a class."""
    original = unfused_class(cls) or cls
    calls = [call for function in functions_of(original) for call in dropout_calls(function)]
    return tuple(dict.fromkeys(calls))


def _children_only_read(module):
    """The dropout layers among the children that the code of a module never calls."""
    cls = class_of(module)
    return [
        child
        for name, child in module._modules.items()
        if isinstance(child, _DropoutNd) and _is_only_read(cls, name)
    ]


@functools.cache
def _is_only_read(cls, name):
    """Whether the code of a class reads p of a child and does nothing else with the child."""
    uses = [
        after.argval
        for function in functions_of(cls)
        for code in _all_code(inspect.unwrap(function).__code__)
        if name in code.co_names
        for before, one, after in _triples(code)
        if before.argval == "self" and one.argval == name and not one.opname.startswith("STORE")
    ]
    return bool(uses) and all(use in ("p", "drop_prob") for use in uses)


def _triples(code):
    instructions = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    return zip(instructions, instructions[1:], instructions[2:], strict=False)


def _all_code(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_code(constant)
