"""``nn.Sequential``: runs of a linear layer or convolution, an activation and dropout."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fused_dropout import functional as FF
from fused_dropout import modules as M
from fused_dropout.fusion._activations import activation_obstacle, activation_of, is_activation
from fused_dropout.fusion._children import (
    as_autocast_would,
    class_name,
    is_computable,
    is_exchanged,
    note_forwards,
    obstacle,
    product_obstacle,
    watched_everywhere,
)
from fused_dropout.fusion._patterns import add_pattern
from fused_dropout.fusion._swap import Fused, unfused_class
from fused_dropout.fusion.dropout import drop_arguments

# Where the bias belongs, counted from the end: unbatched input has no first dimension.
_BIAS_DIMS = {nn.Linear: -1, nn.Conv1d: -2, nn.Conv2d: -3, nn.Conv3d: -4}
_PRODUCTS = tuple(_BIAS_DIMS)
_PRODUCT_NAMES = {cls.__name__ for cls in _PRODUCTS}  # quantised layers are no subclasses
note_forwards(_PRODUCTS)

# Layers that drop channels do so here for batched input only, as its shape alone tells.
_CHANNELS = {nn.Dropout1d: 3, nn.Dropout2d: 4, nn.Dropout3d: 5}


class Run(NamedTuple):
    """Neighbours that are computed together; each of them may be missing, but for one."""

    product: nn.Module | None
    act: nn.Module | None
    drop: nn.Module | None

    @property
    def layers(self):
        return [layer for layer in self if layer is not None]


class FusedSequential(Fused):
    """Looks for runs at every call, as layers can be exchanged, added and hooked at any time."""

    @staticmethod
    def why_not(module):
        runs, notes = _survey(module)
        return None if runs else "; ".join(notes)

    def forward(self, input):
        layers = list(self._modules.values())
        if (
            not any(layer.training for layer in layers)
            or watched_everywhere()
            or not self.is_as_it_was()
        ):
            return self.unfused_forward(input)
        start = 0
        while start < len(layers):
            run = _run_at(layers, start) if is_computable(input) else None
            if run is None or not any(layer.training for layer in run.layers):
                input = layers[start](input)
                start += 1
            else:
                input = _compute(run, input)
                start += len(run.layers)
        return input


def _compute(run, x):
    bias = None
    bias_dim = -1
    product = run.product
    if product is not None:
        if type(product) is nn.Linear:
            x = F.linear(x, product.weight)
        else:
            x = product._conv_forward(x, product.weight, None)
        bias, bias_dim = product.bias, _BIAS_DIMS[type(product)]
    activation = ("identity", None, None) if run.act is None else activation_of(run.act)
    drop = {"p": 0.0, "training": False} if run.drop is None else _drop_arguments(run.drop, x)
    if drop is None:
        x = _bias_act(x, bias, bias_dim, activation, {"p": 0.0, "training": False})
        return run.drop(x)
    return _bias_act(x, bias, bias_dim, activation, drop)


def _bias_act(x, bias, bias_dim, activation, drop):
    name, negative_slope, alpha = activation
    if name == "softplus":
        x = as_autocast_would(x)
    return FF.bias_act_dropout(
        x,
        bias,
        activation=name,
        bias_dim=bias_dim,
        negative_slope=negative_slope,
        alpha=alpha,
        **drop,
    )


def _drop_arguments(drop, x):
    """None where the layer itself has to look at the shape."""
    cls = _class_of(drop)
    if cls in _CHANNELS:
        if x.dim() != _CHANNELS[cls]:
            return None
        return {"p": drop.p, "training": drop.training, "shared_dims": tuple(range(2, x.dim()))}
    if cls is nn.AlphaDropout:
        return {"p": drop.p, "training": drop.training, "mode": "alpha"}
    return drop_arguments(drop)


def _run_at(layers, start):
    """The run of two or three that starts here; None where there is none."""
    rest = iter(layers[start : start + 3])
    layer = next(rest, None)
    product = act = drop = None
    if type(layer) in _PRODUCTS and product_obstacle("", layer, _PRODUCTS) is None:
        product, layer = layer, next(rest, None)
    if isinstance(layer, nn.Module) and activation_of(layer) is not None:
        if product is None and getattr(layer, "inplace", False):
            return None  # others see that their tensor changes
        act, layer = layer, next(rest, None)
    if _is_drop(layer):
        drop = layer
    run = Run(product, act, drop)
    return run if len(run.layers) > 1 else None


def _class_of(layer):
    return unfused_class(type(layer)) or type(layer)


def _is_drop(layer):
    cls = _class_of(layer)
    # An identity is no end of a run.
    known = cls in _CHANNELS or cls in (nn.Dropout, M.Dropout, nn.AlphaDropout)
    return known and obstacle("", layer, (type(layer),)) is None


def _survey(module):
    """The runs of a container in words, and what stands in the way of more."""
    names, layers = list(module._modules), list(module._modules.values())
    runs, start = [], 0
    while start < len(layers):
        run = _run_at(layers, start)
        length = 1 if run is None else len(run.layers)
        if run is not None:
            chain = ", ".join(
                (unfused_class(type(one)) or type(one)).__name__ for one in run.layers
            )
            runs.append(f"{chain} ({names[start]} to {names[start + length - 1]})")
        start += length
    kinds = [None, *map(_kind, layers), None]
    notes = [
        note
        for name, layer, around in zip(
            names, layers, zip(kinds, kinds[1:], kinds[2:], strict=False), strict=False
        )
        if (note := _in_the_way(name, layer, *around)) is not None
    ]
    return runs, notes


def _what(module):
    runs, notes = _survey(module)
    return "; ".join(runs) + (f"; but {'; '.join(notes)}" if notes else "")


def _kind(layer):
    if isinstance(layer, _PRODUCTS) or type(layer).__name__ in _PRODUCT_NAMES:
        return "product"
    if isinstance(layer, _DropoutNd):
        return "drop"
    return "act" if is_activation(layer) else None


def _in_the_way(name, layer, before, kind, after):
    """Why a layer is in no run, though its neighbours call for one."""
    if kind == "product" and after in ("act", "drop"):
        return product_obstacle(name, layer, _PRODUCTS)
    if kind == "drop" and before in ("product", "act"):
        return None if _is_drop(layer) else _drop_reason(name, layer)
    if kind == "act" and (before == "product" or after == "drop"):
        return activation_obstacle(name, layer)
    if kind is None and before == "product" and after == "drop" and _may_be_activation(layer):
        return activation_obstacle(name, layer)
    return None


def _may_be_activation(layer):
    module = type(layer).__module__
    return not module.startswith("torch.nn.modules.") or module == nn.ReLU.__module__


def _drop_reason(name, layer):
    types = (nn.Dropout, *_CHANNELS, nn.AlphaDropout)
    return obstacle(name, layer, types) or f"{name} is {class_name(layer)}, which has no run"


# A subclass with a forward of its own is a module like any other.
add_pattern(
    "sequential",
    FusedSequential,
    lambda cls: issubclass(cls, nn.Sequential) and cls.forward is nn.Sequential.forward,
    _what,
    lambda cls: (
        "Sequential.forward was exchanged" if is_exchanged(nn.Sequential, "forward") else None
    ),
)
