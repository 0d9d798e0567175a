"""Small layers of timm: activations, norms, layer scale, and a pattern for stochastic depth."""

import re

import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, LayerScale, RmsNorm, activations
from timm.layers import norm as timm_norm
from timm.models import vision_transformer
from torch import nn

from fused_dropout.fusion.activations import add_activations
from fused_dropout.fusion.drop_path import (
    DropPathConfig,
    FusedDropPath,
    add_drop_path,
    drop_path_not_fusable,
)
from fused_dropout.fusion.eligibility import child_not_fusable
from fused_dropout.fusion.fingerprint import add_fingerprint_pattern, fingerprint_of
from fused_dropout.fusion.fused_calls import bias_act_drop
from fused_dropout.fusion.norms import add_norm_class, parameters_of_torch_norm

_DROP_PATH = ("185bf503d00b2b28",)
_LAYER_SCALE = "dade0b2179abf1fa"

add_activations(
    {
        activations.GELU: "gelu",
        activations.GELUTanh: "gelu_tanh",
        activations.QuickGELU: "quick_gelu",
        activations.Swish: "silu",
        activations.Mish: "mish",
        activations.Sigmoid: "sigmoid",
        activations.Tanh: "tanh",
        activations.HardSwish: "hardswish",
    }
)

add_fingerprint_pattern(
    "timm", FusedDropPath, _DROP_PATH, re.compile("DropPath"), "one random number per example"
)
if fingerprint_of(DropPath.forward) in _DROP_PATH:
    add_drop_path(DropPath, lambda module: DropPathConfig(module.drop_prob, module.scale_by_keep))


def _parameters(norm):
    # With _fast_norm, timm rounds to 16 bits under autocast, or calls the norm of another package.
    return None if norm._fast_norm else parameters_of_torch_norm(norm)


if fingerprint_of(LayerNorm.forward) == "f22c19c99b71682a":
    add_norm_class(LayerNorm, "layer", _parameters)
if fingerprint_of(RmsNorm.forward) == "69d9dd9f1b319df2" and timm_norm.rms_norm is F.rms_norm:
    add_norm_class(RmsNorm, "rms", _parameters)

# Before timm 1.0.26, vision_transformer.py has a class of its own.
_SCALES = tuple(
    cls
    for cls in {LayerScale, getattr(vision_transformer, "LayerScale", LayerScale)}
    if fingerprint_of(cls.forward) == _LAYER_SCALE
)


def end_of_branch(branch, bias, drop, scale, drop_path):
    """The arguments of :func:`add` for a branch that ends with layer scale and stochastic depth.

    Modules that cannot be bypassed are called here.

    Args:
        branch, bias, drop: see :func:`add`.
        scale: a ``LayerScale``, ``nn.Identity`` or any other module; a tensor; or None.
        drop_path: a stochastic depth layer, ``nn.Identity`` or any other module.

    Returns:
        dict: all keyword arguments of :func:`add` but ``residual``.
    """
    layer_scale = scale
    if isinstance(scale, nn.Module):
        layer_scale = None
        if layer_scale_not_fusable("", scale) is not None:
            branch, bias, drop = scale(bias_act_drop(branch, bias, None, drop)), None, None
        elif type(scale) in _SCALES:
            layer_scale = scale.gamma
    if drop_path_not_fusable("", drop_path) is not None:
        branch = bias_act_drop(branch, bias, None, drop)
        branch = drop_path(branch if layer_scale is None else branch * layer_scale)
        bias = drop = layer_scale = drop_path = None
    return {
        "branch": branch,
        "bias": bias,
        "drop": drop,
        "layer_scale": layer_scale,
        "drop_path": drop_path,
    }


def layer_scale_not_fusable(name, child):
    """The reason why a layer scale cannot be bypassed; None if it can."""
    return child_not_fusable(name, child, (*_SCALES, nn.Identity))
