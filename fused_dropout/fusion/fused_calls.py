"""The calls that fused modules consist of: each takes child layers and makes one kernel call.

In all functions ``drop`` is a dropout child, a dict with the keyword arguments of a dropout call,
or None for no dropout. Tensors of the residual connection are called ``residual``; ``branch`` is
the tensor that is added to it.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout._state import new_rng_state
from fused_dropout.functional._arguments import is_zero
from fused_dropout.fusion.activations import Activation, activation_of
from fused_dropout.fusion.drop_path import OFF, drop_path_arguments, row_factors
from fused_dropout.fusion.dropout_layers import dropout_arguments
from fused_dropout.fusion.eligibility import (
    LINEAR,
    linear_not_fusable,
    record_forwards,
    to_autocast_float32,
)
from fused_dropout.fusion.norms import norm_kernel

# The dimension of the bias, counted from the end: unbatched input has one dimension less.
BIAS_DIMS = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
LINEAR_AND_CONV = tuple(BIAS_DIMS)

# {class: function of a layer and its input that returns the output without the bias}
_WITHOUT_BIAS = {
    nn.Linear: lambda layer, x: F.linear(x, layer.weight),
    **dict.fromkeys(
        LINEAR_AND_CONV[1:], lambda layer, x: layer._conv_forward(x, layer.weight, None)
    ),
}

_IDENTITY = Activation("identity")

record_forwards(LINEAR_AND_CONV)


def add_linear_class(cls, without_bias):
    """Adds a class of linear layers with parameters ``weight`` and ``bias``.

    ``without_bias`` is a function of a layer and its input: the output without the bias.
    """
    _WITHOUT_BIAS[cls] = without_bias
    BIAS_DIMS[cls] = -1
    record_forwards((cls,))


def linear_called(name, layer):
    """The reason why a linear layer or convolution has to be called; None if it has not.

    It is called if it is an adapter, a quantised layer or another class, or has hooks.
    """
    types = (type(layer),) if type(layer) in _WITHOUT_BIAS else LINEAR
    return linear_not_fusable(name, layer, types)


def linear_output(layer, x):
    """``(output, bias)`` of a linear layer or convolution; the caller adds the bias.

    A layer that has to be called adds its own bias. ``bias`` is None then.
    """
    if linear_called("", layer) is None:
        return _WITHOUT_BIAS[type(layer)](layer, x), layer.bias
    return layer(x), None


def called_layers(text, *names):
    """A description for the report: ``text``, and which linear layers have to be called."""

    def describe(module):
        reasons = [linear_called(name, module.get_submodule(name)) for name in names]
        notes = [reason for reason in reasons if reason is not None]
        return f"{text}; not fused: {'; '.join(notes)}" if notes else text

    return describe


def bias_act_drop(x, bias, act, drop=None, bias_dim=-1):
    """``drop(act(x + bias))``. ``act`` is a module, a function, or None for the identity.

    An activation without a kernel is called, and only dropout uses a kernel.
    """
    arguments = _arguments(drop)
    activation = _IDENTITY if act is None else activation_of(act)
    if activation is None:
        x = x if bias is None else x + bias.view(-1, *(1,) * (-1 - bias_dim))
        return FF.dropout(act(x), **arguments)
    if act is None and bias is None:
        return FF.dropout(x, **arguments)
    name, negative_slope, alpha = activation
    if name == "softplus":
        x = to_autocast_float32(x)
    return FF.bias_act_dropout(
        x,
        bias,
        activation=name,
        bias_dim=bias_dim,
        negative_slope=negative_slope,
        alpha=alpha,
        **arguments,
    )


def linear_output_of_last_dim(linear, x):
    """As :func:`linear_output`; a convolution, whose bias belongs to another dim, is called."""
    if BIAS_DIMS.get(type(linear), -1) != -1:
        return linear(x), None
    return linear_output(linear, x)


def linear_act_drop(linear, act, drop, x):
    """``drop(act(linear(x)))`` for a linear layer or a convolution.

    ``act`` is a module, a function, or None for the identity.
    """
    arguments = _arguments(drop)
    if not _is_active(arguments) and (act is None or getattr(linear, "bias", None) is None):
        return linear(x) if act is None else act(linear(x))
    if act is not None and activation_of(act) is None:
        return FF.dropout(act(linear(x)), **arguments)
    x, bias = linear_output(linear, x)
    return bias_act_drop(x, bias, act, drop, BIAS_DIMS.get(type(linear), -1))


def glu_drop(x, bias, activation, drop, gate_first=True):
    """``drop(activation(x1 + b1) * (x2 + b2))``, where x1, x2 and b1, b2 are halves of x and bias.

    ``activation`` is an :class:`~.activations.Activation`; it applies to the second half if
    ``gate_first`` is False.
    """
    name, negative_slope, alpha = activation
    return FF.bias_glu_dropout(
        x,
        bias,
        activation=name,
        negative_slope=negative_slope,
        alpha=alpha,
        gate_first=gate_first,
        **_arguments(drop),
    )


def halves_glu_drop(x, bias, act, drop, gate_first):
    """As :func:`glu_drop`; ``act`` is a module or a function, with a kernel or not."""
    activation = activation_of(act)
    if activation is not None:
        return glu_drop(x, bias, activation, drop, gate_first)
    first, second = (x if bias is None else x + bias).chunk(2, dim=-1)
    product = act(first) * second if gate_first else first * act(second)
    return FF.dropout(product, **_arguments(drop))


def two_linears_glu_drop(gate, value, act, drop, x, gate_first=True):
    """``drop(act(gate(x)) * value(x))`` for two linear layers.

    Their weights are concatenated, as the kernel takes one tensor. Layers that have to be called
    are called in the order of the original code, which ``gate_first`` says.
    """
    activation = activation_of(act)
    called = any(linear_not_fusable("", one) is not None for one in (gate, value))
    if called or activation is None or not _can_concatenate(gate, value):
        product = act(gate(x)) * value(x) if gate_first else value(x) * act(gate(x))
        return FF.dropout(product, **_arguments(drop))
    bias = None if gate.bias is None else torch.cat((gate.bias, value.bias))
    x = F.linear(x, torch.cat((gate.weight, value.weight)))
    return glu_drop(x, bias, activation, drop)


def _can_concatenate(linear, other):
    return (
        linear.weight.shape == other.weight.shape
        and linear.weight.dtype == other.weight.dtype
        and (linear.bias is None) == (other.bias is None)
    )


def linear_drop(linear, drop, x):
    """``drop(linear(x))``."""
    return linear_act_drop(linear, None, drop, x)


def add(branch, bias, drop, residual, layer_scale=None, drop_path=None, branch_first=False):
    """``residual + drop_path(layer_scale * drop(branch + bias))``.

    If ``branch_first`` is True, the original code adds the residual to the branch, which matters
    for objects that are not tensors.

    ``layer_scale`` is a tensor that broadcasts to the shape of the branch, or None. ``drop_path``
    is a stochastic depth layer, or None.
    """
    dropped, path = _arguments(drop), _path_arguments(drop_path, branch)
    if bias is None and layer_scale is None and not _is_active(dropped) and not _is_active(path):
        return branch + residual if branch_first else residual + branch
    both = _is_active(dropped) and _is_active(path)
    if not both and layer_scale is None and _kernel_can_add(branch, residual):
        arguments = path if _is_active(path) else dropped
        return _laid_out_as(residual, FF.bias_dropout_add(branch, bias, residual, **arguments))
    if bias is not None or _is_active(dropped):
        branch = FF.bias_act_dropout(branch, bias, activation="identity", **dropped)
    if _is_active(path):
        factors = row_factors(branch, path)
        scale = factors if layer_scale is None else layer_scale * factors
    else:
        scale = layer_scale
    if scale is None:
        return residual + branch
    if not isinstance(residual, torch.Tensor):  # a number
        return residual + branch * scale.to(branch.dtype)
    dtype = _sum_dtype(branch, residual, layer_scale)
    return torch.addcmul(residual, branch, scale).to(dtype)


def add_norm(branch, bias, drop, residual, norm, layer_scale=None, drop_path=None):
    """``norm(h)``, where ``h`` is the result of :func:`add`."""
    return _add_norm(branch, bias, drop, residual, norm, False, layer_scale, drop_path)


def add_then_norm(branch, bias, drop, residual, norm, layer_scale=None, drop_path=None):
    """``(norm(h), h)``, where ``h`` is the result of :func:`add`."""
    return _add_norm(branch, bias, drop, residual, norm, True, layer_scale, drop_path)


def run_residual_branches(x, stages, norm_first):
    """Runs the branches of a transformer layer, with their residuals and norms.

    Args:
        x: the input of the layer.
        stages: ``(norm, drop, branch)`` for each branch. ``branch`` is a function of a tensor that
            returns an output and a bias that is still to be added, or None.
        norm_first: True for pre-norm, ``x + drop(branch(norm(x)))``; False for post-norm,
            ``norm(x + drop(branch(x)))``.
    """
    if not norm_first:
        for norm, drop, branch in stages:
            x = add_norm(*branch(x), drop, x, norm)
        return x
    y = stages[0][0](x)
    for (_, drop, branch), (next_norm, _, _) in pairwise(stages):
        y, x = add_then_norm(*branch(y), drop, x, next_norm)
    _, drop, branch = stages[-1]
    return add(*branch(y), drop, x)


def _add_norm(branch, bias, drop, residual, norm, prenorm, layer_scale, drop_path):
    can_add = _kernel_can_add(branch, residual, layer_scale)
    kernel = norm_kernel(norm, residual) if can_add else None
    if kernel is None:
        h = add(branch, bias, drop, residual, layer_scale, drop_path)
        return (norm(h), h) if prenorm else norm(h)
    options = {"bias": bias, "prenorm": prenorm, "layer_scale": layer_scale}
    options |= _drop_options(branch, drop, drop_path)
    kind, (weight, norm_bias, eps, _, dtype) = kernel
    if not prenorm and dtype is None:  # the kernel returns the norm in the dtype of the residual
        residual = to_autocast_float32(residual)
    if eps is None:  # torch takes the eps of the dtype in which it computes
        eps = torch.finfo(torch.promote_types(residual.dtype, torch.float32)).eps
    if kind == "layer":
        y = FF.dropout_add_layer_norm(branch, residual, weight, norm_bias, eps=eps, **options)
    else:
        y = FF.dropout_add_rms_norm(branch, residual, weight, eps=eps, **options)
    # Torch's norms return contiguous tensors.
    return (y[0].contiguous(), _laid_out_as(residual, y[1])) if prenorm else y.contiguous()


def _laid_out_as(residual, result):
    """A result with the layout of the residual: the kernels keep that of the branch.

    In torch the first operand of a sum decides, and code that follows may call ``view``.
    """
    if residual.is_contiguous():
        return result.contiguous()
    if residual.stride() == result.stride():
        return result
    return torch.empty_like(residual, dtype=result.dtype).copy_(result)


def _drop_options(branch, drop, drop_path):
    """The arguments of a norm kernel for dropout and stochastic depth.

    The kernel draws one of the two masks. If both are active, it draws that of dropout, and
    stochastic depth becomes a factor for each row.
    """
    dropped, path = _arguments(drop), _path_arguments(drop_path, branch)
    if not _is_active(path):
        return dropped
    if not _is_active(dropped):
        return path
    # First the state of dropout, then stochastic depth: the order of the unfused layers.
    state = new_rng_state(branch.device)
    factors = row_factors(branch, path).squeeze(-1).expand(branch.shape[:-1])
    return {**dropped, "rng_state": state, "row_scale": factors}


def _arguments(drop):
    return OFF if drop is None else dropout_arguments(drop)


def _path_arguments(drop_path, branch):
    return OFF if drop_path is None else drop_path_arguments(drop_path, branch.dim())


def _is_active(arguments):
    """Whether a dropout call with these arguments changes its input."""
    if not arguments["training"]:
        return arguments.get("mode") == "classic"
    return not is_zero(arguments["p"])


def _kernel_can_add(branch, residual, layer_scale=None):
    """Whether the sum of a kernel has the same shape and dtype as the sum of torch."""
    if not isinstance(branch, torch.Tensor) or not isinstance(residual, torch.Tensor):
        return False  # a number
    if branch.shape != residual.shape:
        return False
    if layer_scale is None and branch.dtype == residual.dtype:
        return True
    return (
        residual.dtype in (branch.dtype, torch.float32)
        and _sum_dtype(branch, residual, layer_scale) == residual.dtype
    )


def _sum_dtype(branch, residual, layer_scale):
    dtype = torch.promote_types(branch.dtype, residual.dtype)
    return dtype if layer_scale is None else torch.promote_types(dtype, layer_scale.dtype)
