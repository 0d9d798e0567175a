"""timm's small layers: activations, norms, layer scale and stochastic depth."""

import re

import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, LayerScale, RmsNorm, activations
from timm.layers import norm as timm_norm
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
from fused_dropout.fusion.fused_calls import add_norm_class, bias_act_drop

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
    "timm", "timm", FusedDropPath, _DROP_PATH, re.compile("DropPath"), "draws a number an example"
)
if fingerprint_of(DropPath.forward) in _DROP_PATH:
    add_drop_path(DropPath, lambda module: DropPathConfig(module.drop_prob, module.scale_by_keep))

# Those that are told to be fast round under autocast, and may belong to another package.
if fingerprint_of(LayerNorm.forward) == "5c4ee1355728eaf7":
    add_norm_class(LayerNorm, "layer", lambda norm: not norm._fast_norm)
if fingerprint_of(RmsNorm.forward) == "69d9dd9f1b319df2" and timm_norm.rms_norm is F.rms_norm:
    add_norm_class(RmsNorm, "rms", lambda norm: not norm._fast_norm)

_SCALES = (LayerScale,) if fingerprint_of(LayerScale.forward) == _LAYER_SCALE else ()


def end_of_branch(branch, bias, drop, scale, drop_path):
    """A branch and what is left to be done to it, as :func:`add` takes it.

    Args:
        branch, bias, drop: see :func:`add`.
        scale: a ``LayerScale``, an identity or any other module; or a tensor, or None.
        drop_path: a layer for stochastic depth, an identity or any other module.

    Returns:
        dict: keyword arguments. Modules that cannot be computed in their place have been called.
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
    """Why a layer scale cannot be computed in its place; None if it can."""
    return child_not_fusable(name, child, (*_SCALES, nn.Identity))
