"""Norms that a kernel computes together with the sum before them."""

from typing import NamedTuple

import torch
from torch import nn

from fused_dropout.fusion.eligibility import child_not_fusable, record_forwards


class NormParameters(NamedTuple):
    """What a norm kernel needs to know of a norm.

    Attributes:
        weight, bias: tensors or None.
        eps: a number, or None for that of the dtype.
        normalized_shape: the sizes of the dimensions that it normalises.
        dtype: of the input for which the result of a kernel has the dtype that the norm returns;
            None for the norms of torch, for all.
    """

    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float | None
    normalized_shape: tuple
    dtype: torch.dtype | None = None


def parameters_of_torch_norm(norm):
    """The :class:`NormParameters` of a norm with the attributes of those of torch."""
    bias = getattr(norm, "bias", None)
    return NormParameters(norm.weight, bias, norm.eps, norm.normalized_shape)


# {class: (which kernel normalises, function of a module that returns its NormParameters, or None if
# it has options without a kernel)}
_NORMS = {
    nn.LayerNorm: ("layer", parameters_of_torch_norm),
    nn.RMSNorm: ("rms", parameters_of_torch_norm),
}
record_forwards(_NORMS)


def add_norm_class(cls, kind, parameters=parameters_of_torch_norm):
    """Adds a class that normalises as ``nn.LayerNorm`` ("layer") or ``nn.RMSNorm`` ("rms") does.

    ``parameters`` is a function of a module: its :class:`NormParameters`, or None if it computes
    something else.
    """
    _NORMS[cls] = (kind, parameters)
    record_forwards((cls,))


def is_norm(module):
    """Whether the class of a module is a norm that has a kernel."""
    return type(module) in _NORMS


def norm_not_fusable(name, norm):
    """The reason why a norm has to be called apart from the sum before it; None if it has not."""
    return _norm_parameters(name, norm)[1]


def _norm_parameters(name, norm):
    """``(NormParameters, None)``, or ``(None, reason)``: see :func:`norm_not_fusable`."""
    reason = child_not_fusable(name, norm, tuple(_NORMS))
    if reason is not None:
        return None, reason
    parameters = _NORMS[type(norm)][1](norm)
    if parameters is None:
        return None, f"{name} has options without a kernel"
    dims = len(parameters.normalized_shape)
    if dims != 1:
        return None, f"{name} normalises {dims} dimensions, but expected 1"
    return parameters, None


def norm_kernel(norm, x):
    """``(kind, NormParameters)`` for a norm of x; None if it has to be called."""
    parameters, _ = _norm_parameters("", norm)
    if parameters is None or parameters.normalized_shape[0] != x.shape[-1]:
        return None
    return (_NORMS[type(norm)][0], parameters) if parameters.dtype in (None, x.dtype) else None
