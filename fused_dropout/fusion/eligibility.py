"""What a fused module may take over from its children: layers that nobody watches or changed.

A fused module computes what its children would, without calling them. That goes unnoticed only
while a child is exactly the layer that it seems to be. The functions here tell, at the time of
fusing (in words, for the report) and again at every call, as hooks can come at any time.
"""

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrize

LINEAR = (nn.Linear,)
_PLAIN = (nn.Parameter, torch.Tensor)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FORWARDS = {}  # class: its forward, before anybody can have exchanged it


def record_forwards(classes):
    """Remembers the `forward` of some classes, so that :func:`child_not_fusable` sees a change."""
    for cls in classes:
        _FORWARDS[cls] = None if is_replaced(cls, "forward") else cls.forward


def is_replaced(cls, name):
    """Whether a method of a class was written in another package than the class."""
    names = getattr(getattr(cls, name), "__globals__", {})
    return top_level_package(names.get("__name__", "")) != top_level_package(cls.__module__)


def top_level_package(module_name):
    return module_name.partition(".")[0]


def is_supported_tensor(x):
    """Whether the kernels take a tensor.

    Nested, distributed and complex ones are for the layers themselves, and so is what stands for a
    tensor while a model is traced by torch.fx.
    """
    return (
        isinstance(x, torch.Tensor)
        and x.dtype in _DTYPES
        and not x.is_nested
        and not hasattr(type(x), "__tensor_flatten__")
    )


def child_not_fusable(name, child, types):
    """Why the operator of `child` cannot be called in its place; None if it can."""
    if (
        type(child) in types
        and not child._forward_hooks
        and not child._forward_pre_hooks
        and not child._backward_hooks
        and not child._backward_pre_hooks
        and "forward" not in child.__dict__
        and _FORWARDS.get(type(child), type(child).forward) is type(child).forward
    ):
        return None
    return f"{name} {_reason(child, types)}"


def _reason(child, types):
    if parametrize.is_parametrized(child):
        return f"has a parametrisation of {', '.join(child.parametrizations)}"
    if type(child) not in types:
        expected = " or ".join(dict.fromkeys(one.__name__ for one in types))
        relation = "a subclass of" if isinstance(child, types) else "rather than"
        return f"is {class_name(child)}, {relation} {expected}"
    if "forward" in child.__dict__:
        return "has a forward of its own"
    if _FORWARDS.get(type(child), type(child).forward) is not type(child).forward:
        return f"is {class_name(child)}, whose forward was exchanged"
    return "has hooks"


record_forwards(LINEAR)


def to_autocast_float32(x):
    """For functions that autocast computes in float32 on a GPU: softplus and the norms."""
    return x.float() if x.is_cuda and torch.is_autocast_enabled("cuda") else x


def linear_not_fusable(name, child, types=LINEAR):
    """The same for a layer that multiplies by a weight."""
    reason = child_not_fusable(name, child, types)
    if reason is None and type(child.weight) not in _PLAIN:
        reason = f"{name}.weight is quantised or distributed: a {type(child.weight).__name__}"
    return reason


def has_global_hooks():
    """Whether hooks are installed that see every module of the process."""
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def class_name(child):
    """A class as the reports name it: with its module, unless it is torch.nn's."""
    cls = type(child)
    module = cls.__module__
    if module.startswith("torch.nn.modules."):
        return cls.__qualname__
    return f"{module}.{cls.__qualname__}"
