"""Lets torch.compile fuse the compositions that run on devices without kernels.

To the compiler, an operator of this package is one call. On a device without kernels, that call
would run the composition operator by operator. So the composition itself is traced there, in
forward and backward.
"""

import torch
from torch._C import DispatchKey
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode

import fused_dropout._extension  # noqa: F401  (registers the operators)
from fused_dropout.functional._devices import has_kernels

# DropBlock is not among them: its composition depends on sizes as numbers.
_FORWARD = (
    "bias_act_dropout",
    "bias_glu_dropout",
    "dropout_add_norm",
    "concrete_dropout",
    "standout",
)
_NAMES = (*_FORWARD, *(f"{name}_backward" for name in _FORWARD), "gaussian_dropout")


def _trace(mode, operator, types, args=(), kwargs=None):
    kwargs = kwargs or {}
    given = dict(zip((one.name for one in operator._schema.arguments), args, strict=False))
    # The composition reads the number of a tensor for p, which a graph cannot.
    if has_kernels(args[0]) or given.get("p_tensor", kwargs.get("p_tensor")) is not None:
        return mode.__torch_dispatch__(operator, types, args, kwargs)
    with mode:
        return operator._op_dk(DispatchKey.CompositeExplicitAutograd, *args, **kwargs)


for _name in _NAMES:
    torch.library.register_torch_dispatch(f"fused_dropout::{_name}", ProxyTorchDispatchMode)(_trace)
