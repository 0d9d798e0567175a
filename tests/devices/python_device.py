"""A device of torch's dispatcher that this package has no kernels for.

Importing this file registers it, as the one accelerator of the process. torch's own operators run
on a contiguous CPU tensor behind each tensor of the device. The operators of this package take the
same way as on any other device without kernels.
"""

import functools

import torch
from torch.utils import _pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

TYPE = "without_kernels"

_values = {}  # by storage, which a tensor shares with its aliases: the CPU tensor that has them


def _key(tensor):
    return tensor.untyped_storage()._cdata


def is_on_device(value):
    return isinstance(value, torch.Tensor) and value.device.type == TYPE


def to_device(tensor):
    """A leaf tensor on the device."""
    moved = _wrap(_contiguous_copy(tensor.detach()))
    return moved.requires_grad_(tensor.requires_grad)


def to_cpu(tensor):
    """The values of a tensor of the device."""
    return _unwrap(tensor).clone()


def _contiguous_copy(tensor):
    return tensor.clone(memory_format=torch.contiguous_format)


def _wrap(values):
    tensor = torch._C._acc.create_empty_tensor(values.shape, values.dtype)
    _values[_key(tensor)] = values
    return tensor


def _unwrap(value):
    if is_on_device(value):
        values = _values[_key(value)]
        return values.as_strided(value.shape, value.stride(), value.storage_offset())
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _run(op, *args, **kwargs):
    to_cpu = op is torch.ops.aten._to_copy.default and kwargs.get("device") == torch.device("cpu")
    given = []  # pairs of a CPU tensor and the tensor of the device that it belongs to

    def unwrap(value):
        given.append((_unwrap(value), value))
        return given[-1][0]

    def wrap(result):
        if to_cpu or not isinstance(result, torch.Tensor):
            return result
        for values, tensor in given:
            if values is result:
                if values.shape != tensor.shape:  # torch resizes empty results
                    tensor.data = _wrap(_contiguous_copy(values))
                return tensor
        return _wrap(_contiguous_copy(result))

    args, kwargs = _pytree.tree_map(unwrap, (args, kwargs))
    args = [
        torch.tensor(value) if _is_number_for_tensor(value, argument) else value
        for value, argument in zip(args, op._schema.arguments, strict=False)
    ]
    return _pytree.tree_map(wrap, op(*args, **kwargs))


def _is_number_for_tensor(value, argument):
    """torch converts the tensor of a number to the number before it calls a fallback."""
    return isinstance(value, (int, float)) and isinstance(argument.type, torch.TensorType)


def _copy_from(source, target, non_blocking=False):
    _unwrap(target).copy_(_unwrap(source))
    return target


_setup_privateuseone_for_python_backend(TYPE)
_libraries = [torch.library.Library(name, "IMPL") for name in ("_", "aten")]
_libraries[0].fallback(_run, "PrivateUse1")
_libraries[1].impl("_copy_from", _copy_from, "PrivateUse1")
# Its default writes into a view, and views are copies here.
_pad = functools.partial(_run, torch.ops.aten.constant_pad_nd.default)
_libraries[1].impl("constant_pad_nd", _pad, "PrivateUse1")
