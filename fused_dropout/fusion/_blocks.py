"""The pieces that fused layers are made of: children in, one kernel call out."""

import torch
import torch.nn.functional as F
from torch import nn

from fused_dropout import functional as FF
from fused_dropout.fusion._activations import Activation, activation_of
from fused_dropout.fusion._children import obstacle
from fused_dropout.fusion.dropout import drop_arguments

_NORMS = (nn.LayerNorm, nn.RMSNorm)
_NOTHING = {"p": 0.0, "training": False}
_IDENTITY = Activation("identity")

# In all of these a `drop` is a dropout child or the arguments of a dropout function, as a dict.


def bias_act_drop(x, bias, act, drop=None, **options):
    """``drop(act(x + bias))``; an activation that is not known is applied as it is, None not."""
    arguments = _NOTHING if drop is None else drop_arguments(drop)
    known = _IDENTITY if act is None else activation_of(act)
    if known is None:
        x = act(x if bias is None else x + bias)
        return FF.dropout(x, **arguments, **options)
    name, negative_slope, alpha = known
    return FF.bias_act_dropout(
        x,
        bias,
        activation=name,
        negative_slope=negative_slope,
        alpha=alpha,
        **arguments,
        **options,
    )


def linear_act_drop(linear, act, drop, x):
    """``drop(act(linear(x)))``."""
    return bias_act_drop(F.linear(x, linear.weight), linear.bias, act, drop)


def linear_drop(linear, drop, x):
    """``drop(linear(x))``."""
    return linear_act_drop(linear, None, drop, x)


def add(branch, bias, drop, residual):
    """``residual + drop(branch + bias)``."""
    return FF.bias_dropout_add(branch, bias, residual, **drop_arguments(drop))


def add_norm(branch, bias, drop, residual, norm):
    """``norm(residual + drop(branch + bias))``."""
    return _add_norm(branch, bias, drop, residual, norm, prenorm=False)


def add_then_norm(branch, bias, drop, residual, norm):
    """``(norm(h), h)`` of ``h = residual + drop(branch + bias)``."""
    return _add_norm(branch, bias, drop, residual, norm, prenorm=True)


def _add_norm(branch, bias, drop, residual, norm, prenorm):
    if _is_plain_norm(norm, branch):
        options = {"bias": bias, "prenorm": prenorm, **drop_arguments(drop)}
        if type(norm) is nn.LayerNorm:
            return FF.dropout_add_layer_norm(
                branch, residual, norm.weight, norm.bias, eps=norm.eps, **options
            )
        eps = torch.finfo(branch.dtype).eps if norm.eps is None else norm.eps
        return FF.dropout_add_rms_norm(branch, residual, norm.weight, eps=eps, **options)
    h = add(branch, bias, drop, residual)
    return (norm(h), h) if prenorm else norm(h)


def _is_plain_norm(norm, x):
    return obstacle("", norm, _NORMS) is None and tuple(norm.normalized_shape) == x.shape[-1:]
