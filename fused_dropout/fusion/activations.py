"""Maps activation modules and functions to the activations that have a kernel."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout.fusion.eligibility import child_not_fusable, class_name, record_forwards


class Activation(NamedTuple):
    """The arguments that select an activation in :mod:`fused_dropout.functional`."""

    activation: str
    negative_slope: float | None = None
    alpha: float | None = None


_FUNCTIONS = {
    F.relu: Activation("relu"),
    torch.relu: Activation("relu"),
    F.relu6: Activation("relu6"),
    F.leaky_relu: Activation("leaky_relu"),
    F.gelu: Activation("gelu"),
    F.silu: Activation("silu"),
    F.sigmoid: Activation("sigmoid"),
    torch.sigmoid: Activation("sigmoid"),
    F.tanh: Activation("tanh"),
    torch.tanh: Activation("tanh"),
    F.elu: Activation("elu"),
    F.selu: Activation("selu"),
    torch.selu: Activation("selu"),
    F.softplus: Activation("softplus"),
    F.mish: Activation("mish"),
    F.hardswish: Activation("hardswish"),
}


def _gelu(module):
    return Activation("gelu" if module.approximate == "none" else "gelu_tanh")


def _softplus(module):
    # The kernel has torch's default values of beta and threshold built in.
    return Activation("softplus") if (module.beta, module.threshold) == (1, 20) else None


# {class: function of a module}. A call reads the options of the module, which can change.
_MODULES = {
    nn.ReLU: lambda module: Activation("relu"),
    nn.ReLU6: lambda module: Activation("relu6"),
    nn.LeakyReLU: lambda module: Activation("leaky_relu", negative_slope=module.negative_slope),
    nn.GELU: _gelu,
    nn.SiLU: lambda module: Activation("silu"),
    nn.Sigmoid: lambda module: Activation("sigmoid"),
    nn.Tanh: lambda module: Activation("tanh"),
    nn.ELU: lambda module: Activation("elu", alpha=module.alpha),
    nn.SELU: lambda module: Activation("selu"),
    nn.Softplus: _softplus,
    nn.Mish: lambda module: Activation("mish"),
    nn.Hardswish: lambda module: Activation("hardswish"),
}
record_forwards(_MODULES)


def add_activations(classes):
    """Adds activation modules of a library.

    Args:
        classes: {class: activation}. The activation is the name of the one that every instance
            computes, or a function of a module that returns an :class:`Activation`, or None if the
            options of the module have no kernel.
    """
    for cls, kind in classes.items():
        _MODULES[cls] = kind if callable(kind) else lambda module, name=kind: Activation(name)


def is_pure_function(function):
    """Whether a function is an activation that has a kernel."""
    return callable(function) and type(function).__hash__ and function in _FUNCTIONS


def is_activation(module):
    """Whether the class of a module is an activation that has a kernel for some options."""
    return type(module) in _MODULES


def activation_of(act):
    """The :class:`Activation` of a module or function; None if there is no kernel for it."""
    if not isinstance(act, nn.Module):
        # Not all callables are hashable.
        return _FUNCTIONS.get(act) if callable(act) and type(act).__hash__ else None
    kind = _MODULES.get(type(act))
    if kind is None or child_not_fusable("", act, (type(act),)) is not None:
        return None
    return kind(act)


def activation_not_fusable(name, act):
    """The reason why an activation cannot be computed by a kernel; None if it can."""
    if activation_of(act) is not None:
        return None
    if isinstance(act, nn.Module) and type(act) in _MODULES:
        reason = child_not_fusable(name, act, (type(act),))
        return reason or f"{name} has options without a kernel: {act}"
    label = class_name(act) if isinstance(act, nn.Module) else repr(act)
    return f"{name} is {label}, an activation without a kernel"
