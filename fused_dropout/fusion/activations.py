"""Which of the package's activations a module or a function is."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout.fusion.eligibility import child_not_fusable, class_name, record_forwards


class Activation(NamedTuple):
    """What the functions of :mod:`fused_dropout.functional` call an activation."""

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
    # Other sharpness, or another place where it turns into the identity, is another function.
    return Activation("softplus") if (module.beta, module.threshold) == (1, 20) else None


# A function of the module: its options can change at any time.
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


def add_activations(kinds):
    """Makes modules known.

    ``kinds``: {class: name of the activation that every instance computes, or a function of an
    instance that gives its :class:`Activation`, None where it is another function}.
    """
    for cls, kind in kinds.items():
        _MODULES[cls] = kind if callable(kind) else lambda module, name=kind: Activation(name)


def is_activation(module):
    """Whether a module is an activation that has a kernel, as far as its class tells."""
    return type(module) in _MODULES


def activation_of(act):
    """The activation that a module or a function computes; None where it is not known."""
    if not isinstance(act, nn.Module):
        # Callables may not be hashable.
        return _FUNCTIONS.get(act) if callable(act) and type(act).__hash__ else None
    kind = _MODULES.get(type(act))
    if kind is None or child_not_fusable("", act, (type(act),)) is not None:
        return None
    return kind(act)


def activation_not_fusable(name, act):
    """Why an activation cannot be computed in its place; None if it can."""
    if activation_of(act) is not None:
        return None
    if isinstance(act, nn.Module) and type(act) in _MODULES:
        return (
            child_not_fusable(name, act, (type(act),))
            or f"{name} has options that have no kernel: {act}"
        )
    label = class_name(act) if isinstance(act, nn.Module) else repr(act)
    return f"{name} is {label}, an activation that is not known"
