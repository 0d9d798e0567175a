"""Decides which children of a fused module may be bypassed.

A fused module computes what its children would compute, without calling them. This is correct only
if a child has no hooks, no parametrisation, its original ``forward`` and exactly the expected
class. ``fuse`` asks these functions for the report, and every call of a fused module asks again,
because hooks can be added at any time.
"""

from itertools import chain

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

from fused_dropout.functional._arguments import PLAIN_TENSORS
from fused_dropout.functional._devices import has_kernels, warn_without_kernels

LINEAR = (nn.Linear,)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FORWARDS = {}  # class: its original forward; None if it was already replaced


def record_forwards(classes):
    """Records the ``forward`` of classes, so that :func:`child_not_fusable` detects a new one.

    Call it when the file that uses a class is imported, before other code can replace the method.
    """
    for cls in classes:
        _FORWARDS[cls] = None if is_replaced(cls, "forward") else cls.forward


def is_replaced(cls, name):
    """Whether a method was replaced: it was defined in another package than its class."""
    names = getattr(getattr(cls, name), "__globals__", {})
    return top_level_package(names.get("__name__", "")) != top_level_package(cls.__module__)


def top_level_package(module_name):
    return module_name.partition(".")[0]


def is_supported_tensor(x):
    """Whether the kernels accept a tensor.

    They do not accept nested, distributed and complex tensors, the proxies of torch.fx and tensors
    on devices without kernels. The original layers handle those.
    """
    return (
        isinstance(x, torch.Tensor)
        and runs_kernels(x)
        and x.dtype in _DTYPES
        and not x.is_nested
        and not hasattr(type(x), "__tensor_flatten__")
    )


def is_unusual(x):
    """Whether an argument is a tensor whose sums and products are not computed by kernels.

    As :func:`is_supported_tensor`; integers, such as tokens, are not unusual.
    """
    return isinstance(x, torch.Tensor) and (
        x.is_complex() or x.is_nested or hasattr(type(x), "__tensor_flatten__")
    )


def runs_kernels(x):
    """Whether there are kernels for the device of a tensor; warns once for a device without."""
    if has_kernels(x):
        return True
    warn_without_kernels(x.device)
    return False


def device_not_fusable(module, model):
    """The reason why a module is on a device without kernels; None if it is not.

    A module without parameters is taken to be where the model is.
    """
    parameter = next(chain(module.parameters(), model.parameters()), None)
    if parameter is None or has_kernels(parameter):
        return None
    return f"is on {parameter.device.type}, for which this build has no kernels"


def child_not_fusable(name, child, types):
    """The reason why a child cannot be bypassed; None if it can.

    Args:
        name: the name of the child, for the text.
        child: a module.
        types: the expected classes, a tuple; subclasses are not accepted.
    """
    cls = type(child)
    if (
        cls in types
        and not child._forward_hooks
        and not child._forward_pre_hooks
        and not child._backward_hooks
        and not child._backward_pre_hooks
        and "forward" not in child.__dict__
        and _FORWARDS.get(cls, cls.forward) is cls.forward
    ):
        return None
    return f"{name} {_reason(child, types)}"


def _reason(child, types):
    if parametrize.is_parametrized(child):
        return f"has a parametrisation of {', '.join(child.parametrizations)}"
    if type(child) not in types:
        expected = " or ".join(dict.fromkeys(one.__name__ for one in types))
        relation = "a subclass of" if isinstance(child, types) else "but expected"
        return f"is {class_name(child)}, {relation} {expected}"
    if "forward" in child.__dict__:
        return "has a forward set on the instance"
    if _FORWARDS.get(type(child), type(child).forward) is not type(child).forward:
        return f"is {class_name(child)}, whose forward was replaced"
    return "has hooks"


record_forwards(LINEAR)


def linear_not_fusable(name, child, types=LINEAR):
    """As :func:`child_not_fusable`, for a layer whose weight and bias the fused module reads."""
    reason = child_not_fusable(name, child, types)
    if reason is not None:
        return reason
    weight = child._parameters.get("weight")  # several times as fast as child.weight
    if type(child.weight if weight is None else weight) not in PLAIN_TENSORS:
        reason = f"{name}.weight is a tensor subclass: {type(child.weight).__name__}"
    return reason


def is_sharded(x):
    """Whether a tensor is a ``DTensor``."""
    return hasattr(x, "placements")


def to_autocast_float32(x):
    """The input of a function that autocast on CUDA runs in float32: softplus and the norms."""
    return x.float() if x.is_cuda and torch.is_autocast_enabled("cuda") else x


def has_global_hooks():
    """Whether hooks are registered that run for every module of the process."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def class_name(child):
    """The name of a module's class in reports: with its Python module, except for torch.nn."""
    cls = type(child)
    module = cls.__module__
    if module.startswith("torch.nn.modules."):
        return cls.__qualname__
    return f"{module}.{cls.__qualname__}"
