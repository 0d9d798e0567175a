"""The pieces that fused layers are made of: children in, one kernel call out."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout._state import new_rng_state
from fused_dropout.functional._arguments import is_zero
from fused_dropout.fusion.activations import Activation, activation_of
from fused_dropout.fusion.drop_path import OFF, drop_path_arguments, row_factors
from fused_dropout.fusion.eligibility import child_not_fusable, record_forwards, to_autocast_float32
from fused_dropout.fusion.patterns.torch_nn.dropout import drop_arguments

# Where the bias belongs, counted from the end: unbatched input has no first dimension.
BIAS_DIMS = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
LINEAR_AND_CONV = tuple(BIAS_DIMS)

_IDENTITY = Activation("identity")


# Which kernel normalises as a class does, and whether a module of it is such a one.
_NORMS = {
    nn.LayerNorm: ("layer", lambda norm: True),
    nn.RMSNorm: ("rms", lambda norm: True),
}
record_forwards((*LINEAR_AND_CONV, *_NORMS))


def add_norm_class(cls, kind, condition):
    """Makes a class known that normalises as ``nn.LayerNorm`` ("layer") or ``nn.RMSNorm`` does."""
    _NORMS[cls] = (kind, condition)
    record_forwards((cls,))


# Below, `drop` is a dropout child or the arguments of a dropout function, as a dict.


def linear_without_bias(layer, x):
    """``layer(x)`` short of its bias, for a linear layer or a convolution."""
    if type(layer) is nn.Linear:
        return F.linear(x, layer.weight)
    return layer._conv_forward(x, layer.weight, None)


def bias_act_drop(x, bias, act, drop=None, bias_dim=-1):
    """``drop(act(x + bias))``; None for ``act`` is the identity.

    An activation that is not known is applied as it is.
    """
    arguments = _arguments(drop)
    known = _IDENTITY if act is None else activation_of(act)
    if known is None:
        x = x if bias is None else x + bias.view(-1, *(1,) * (-1 - bias_dim))
        return FF.dropout(act(x), **arguments)
    if act is None and bias is None:
        return FF.dropout(x, **arguments)
    name, negative_slope, alpha = known
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


def linear_act_drop(linear, act, drop, x):
    """``drop(act(linear(x)))``; also for convolutions, and None for ``act`` is the identity."""
    arguments = _arguments(drop)
    if act is None and not _is_active(arguments):
        return linear(x)
    if act is not None and activation_of(act) is None:
        return FF.dropout(act(linear(x)), **arguments)
    return bias_act_drop(
        linear_without_bias(linear, x), linear.bias, act, drop, BIAS_DIMS[type(linear)]
    )


def glu_drop(x, bias, activation, drop, gate_first=True):
    """``drop(activation(x1 + b1) * (x2 + b2))``, of an :class:`~.activations.Activation`."""
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


def linear_drop(linear, drop, x):
    """``drop(linear(x))``."""
    return linear_act_drop(linear, None, drop, x)


def add(branch, bias, drop, residual, layer_scale=None, drop_path=None):
    """``residual + drop_path(layer_scale * drop(branch + bias))``.

    ``layer_scale`` is a tensor that broadcasts to the branch's shape; None stands for no layer.
    """
    dropped, path = _arguments(drop), _path_arguments(drop_path, branch)
    both = _is_active(dropped) and _is_active(path)
    if not both and layer_scale is None and _fits(branch, residual):
        return FF.bias_dropout_add(
            branch, bias, residual, **(path if _is_active(path) else dropped)
        )
    if bias is not None or _is_active(dropped):
        branch = FF.bias_act_dropout(branch, bias, activation="identity", **dropped)
    dtype = _residual_dtype(branch, residual, layer_scale)
    if _is_active(path):
        factors = row_factors(branch, path)
        layer_scale = factors if layer_scale is None else layer_scale * factors
    if layer_scale is None:
        return residual + branch
    return torch.addcmul(residual, branch, layer_scale).to(dtype)


def add_norm(branch, bias, drop, residual, norm):
    """``norm(residual + drop(branch + bias))``."""
    return _add_norm(branch, bias, drop, residual, norm, False, None, None)


def add_then_norm(branch, bias, drop, residual, norm, layer_scale=None, drop_path=None):
    """``(norm(h), h)`` of ``h``, the result of :func:`add`."""
    return _add_norm(branch, bias, drop, residual, norm, True, layer_scale, drop_path)


def run_residual_branches(x, stages, norm_first):
    """Branches of a residual stream, with the norms in front of them or behind the sums.

    ``stages``: for each branch ``(norm, drop, branch)``; the branch is a function that gives an
    output and a bias to be added.
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
    if not (_is_plain_norm(norm, branch) and _fits(branch, residual, layer_scale)):
        h = add(branch, bias, drop, residual, layer_scale, drop_path)
        return (norm(h), h) if prenorm else norm(h)
    options = {"bias": bias, "prenorm": prenorm, "layer_scale": layer_scale}
    options |= _dropped_and_path(branch, drop, drop_path)
    if not prenorm:  # the result is the stream, and has the residual's dtype
        residual = to_autocast_float32(residual)
    if _NORMS[type(norm)][0] == "layer":
        return FF.dropout_add_layer_norm(
            branch, residual, norm.weight, norm.bias, eps=norm.eps, **options
        )
    eps = norm.eps
    if eps is None:  # that of the dtype in which torch computes
        eps = torch.finfo(torch.promote_types(residual.dtype, torch.float32)).eps
    return FF.dropout_add_rms_norm(branch, residual, norm.weight, eps=eps, **options)


def _dropped_and_path(branch, drop, drop_path):
    """Both ways to drop: one of them as the kernel's own, the other as factors of the rows."""
    dropped, path = _arguments(drop), _path_arguments(drop_path, branch)
    if not _is_active(path):
        return dropped
    if not _is_active(dropped):
        return path
    # The layers themselves would draw in this order.
    state = new_rng_state(branch.device)
    factors = row_factors(branch, path).squeeze(-1).expand(branch.shape[:-1])
    return {**dropped, "rng_state": state, "row_scale": factors}


def _arguments(drop):
    return OFF if drop is None else drop_arguments(drop)


def _path_arguments(drop_path, branch):
    return OFF if drop_path is None else drop_path_arguments(drop_path, branch.dim())


def _is_active(arguments):
    """Whether a call with such arguments changes anything."""
    if not arguments["training"]:
        return arguments.get("mode") == "classic"
    return not is_zero(arguments["p"])


def _fits(branch, residual, layer_scale=None):
    """Whether a kernel's sum has the shape and the dtype that torch's has."""
    return (
        branch.shape == residual.shape
        and residual.dtype in (branch.dtype, torch.float32)
        and _residual_dtype(branch, residual, layer_scale) == residual.dtype
    )


def _residual_dtype(branch, residual, layer_scale):
    dtype = torch.promote_types(branch.dtype, residual.dtype)
    return dtype if layer_scale is None else torch.promote_types(dtype, layer_scale.dtype)


def norm_not_fusable(name, norm):
    """Why a norm cannot be computed together with what is before it; None if it can."""
    reason = child_not_fusable(name, norm, tuple(_NORMS))
    if reason is None and not _NORMS[type(norm)][1](norm):
        reason = f"{name} has options that have no kernel"
    if reason is None and len(norm.normalized_shape) != 1:
        reason = f"{name} spans {len(norm.normalized_shape)} dimensions"
    return reason


def _is_plain_norm(norm, x):
    return norm_not_fusable("", norm) is None and norm.normalized_shape[0] == x.shape[-1]
