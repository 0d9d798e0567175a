"""Counts the dropout calls that a model really makes, for ``fd.report(model, *inputs)``."""

import inspect
import sys
from collections import Counter
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.functional_dropout import STAND_INS, function_name


class Call(NamedTuple):
    """One call of a dropout function in a step.

    Attributes:
        name: of the module that makes it, as in ``named_modules()``.
        function: the function of torch, or the operator of this package.
        kind: "neighbours" for a kernel that also computes what is beside the dropout (a bias,
            activation, gate, residual or norm, or attention), "alone" for a kernel or function that
            only drops, but stores no mask, "torch" for a function of torch, which stores a mask.
        place: file and line of the call, for calls of torch's functions.
    """

    name: str
    function: str
    kind: str
    place: str


class DropoutCalls:
    """A context in which the dropout calls of a model are recorded in ``calls``.

    Calls that drop nothing (p is 0, or evaluation) do not count, nor do calls in backward.
    """

    def __init__(self, model):
        self.calls = []
        self._names = {}
        for name, module in model.named_modules():
            self._names.setdefault(id(module), name)
        self._modes = (_Functions(self), _Operators(self))

    def __enter__(self):
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def counts(self):
        """{kind: number of calls}."""
        return Counter(call.kind for call in self.calls)

    def add(self, function, kind):
        frame = sys._getframe(1)
        call = Call(self._module_name(frame), function, kind, _place(frame))
        self.calls.append(call)

    def _module_name(self, frame):
        """The name of the innermost module of the model whose method is running."""
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and id(module) in self._names:
                return self._names[id(module)]
            frame = frame.f_back
        return ""


def _place(frame):
    """The innermost line that is neither in torch nor in this package."""
    while frame is not None:
        package = top_level_package(frame.f_globals.get("__name__", ""))
        if package not in ("torch", "fused_dropout"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class _Functions(TorchFunctionMode):
    """Sees the calls of torch's functions."""

    def __init__(self, record):
        super().__init__()
        self.record = record

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = _TORCH_FUNCTIONS.get(function)
        if name is not None and _drops(function, args, kwargs):
            # The attention kernels of other devices compute the mask again in backward.
            is_attention = function is F.scaled_dot_product_attention
            stores_mask = not is_attention or args[0].device.type == "cpu"
            self.record.add(name, "torch" if stores_mask else "alone")
        return function(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Sees the calls of this package's operators."""

    def __init__(self, record):
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        namespace, _, name = function.name().partition("::")
        if namespace == "fused_dropout" and not name.endswith(("_backward", "_mask", "_state")):
            arguments = _named(function, args, kwargs)
            if arguments.get("training", True) and arguments.get("p") != 0:
                self.record.add(name, "neighbours" if _has_neighbours(name, arguments) else "alone")
        return function(*args, **kwargs)


def _named(function, args, kwargs):
    """The arguments of an operator by name, those with default values included."""
    schema = function._schema.arguments
    defaults = {one.name: one.default_value for one in schema if one.has_default_value()}
    return {**defaults, **dict(zip((one.name for one in schema), args, strict=False)), **kwargs}


def _has_neighbours(name, arguments):
    if name == "bias_act_dropout":
        has_tensors = arguments["bias"] is not None or arguments["residual"] is not None
        return has_tensors or arguments["activation"] != "identity"
    return name in ("bias_glu_dropout", "dropout_add_norm")


_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")

# {function of torch: its name in reports}
_TORCH_FUNCTIONS = {
    **{one: function_name(one) for one in STAND_INS},
    **{getattr(torch, name): f"torch.{name}" for name in _RECURRENT},
    F.multi_head_attention_forward: "F.multi_head_attention_forward",
}


def _drops(function, args, kwargs):
    """Whether a call of a function of torch drops anything."""
    if function.__name__ in _RECURRENT:
        # After the weights: has_biases, num_layers, dropout, train, bidirectional.
        first = next(index for index, one in enumerate(args) if isinstance(one, bool))
        layers, p, training = args[first + 1 : first + 4]
        return layers > 1 and p > 0 and training
    arguments = _bound(function, args, kwargs)
    p = arguments.get("dropout_p", arguments.get("p", 0.0))
    return p != 0 and arguments.get("training", arguments.get("train", True))


def _bound(function, args, kwargs):
    names = inspect.signature(STAND_INS.get(function, function)).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}
