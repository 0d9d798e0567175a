"""``nn.Sequential``: runs of a linear layer or convolution, an activation and dropout."""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fused_dropout import modules as M
from fused_dropout.fusion.activations import activation_not_fusable, activation_of, is_activation
from fused_dropout.fusion.class_swap import FusedMixin, unfused_class
from fused_dropout.fusion.eligibility import (
    child_not_fusable,
    class_name,
    has_global_hooks,
    is_replaced,
    is_supported_tensor,
    linear_not_fusable,
)
from fused_dropout.fusion.fused_calls import (
    BIAS_DIMS,
    LINEAR_AND_CONV,
    bias_act_drop,
    linear_without_bias,
)
from fused_dropout.fusion.patterns.torch_nn.dropout import drop_arguments
from fused_dropout.fusion.registry import add_pattern

_PRODUCT_NAMES = {cls.__name__ for cls in LINEAR_AND_CONV}  # quantised layers are no subclasses

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


class FusedSequential(FusedMixin):
    """Looks for runs at every call, as layers can be exchanged, added and hooked at any time."""

    @staticmethod
    def reason_not_fusable(module):
        runs, notes = _survey(module)
        return None if runs else "; ".join(notes)

    def forward(self, input):
        if self.has_original_methods():
            return run_layers(list(self._modules.values()), input)
        return self.unfused_forward(input)


def run_layers(layers, x):
    """What the layers compute one after the other."""
    together = any(layer.training for layer in layers) and not has_global_hooks()
    start = 0
    while start < len(layers):
        run = _run_at(layers, start) if together and is_supported_tensor(x) else None
        if run is None or not any(layer.training for layer in run.layers):
            x = layers[start](x)
            start += 1
        else:
            x = _compute(run, x)
            start += len(run.layers)
    return x


def _compute(run, x):
    bias, bias_dim = None, -1
    if run.product is not None:
        x = linear_without_bias(run.product, x)
        bias, bias_dim = run.product.bias, BIAS_DIMS[type(run.product)]
    drop = None if run.drop is None else _drop_arguments(run.drop, x)
    result = bias_act_drop(x, bias, run.act, drop, bias_dim)
    return result if run.drop is None or drop is not None else run.drop(result)


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
    linear = act = drop = None
    if type(layer) in LINEAR_AND_CONV and linear_not_fusable("", layer, LINEAR_AND_CONV) is None:
        linear, layer = layer, next(rest, None)
    if isinstance(layer, nn.Module) and activation_of(layer) is not None:
        if linear is None and getattr(layer, "inplace", False):
            return None  # others see that their tensor changes
        act, layer = layer, next(rest, None)
    if _is_drop(layer):
        drop = layer
    run = Run(linear, act, drop)
    return run if len(run.layers) > 1 else None


def _class_of(layer):
    return unfused_class(type(layer)) or type(layer)


def _is_drop(layer):
    cls = _class_of(layer)
    # An identity is no end of a run.
    known = cls in _CHANNELS or cls in (nn.Dropout, M.Dropout, nn.AlphaDropout)
    return known and child_not_fusable("", layer, (type(layer),)) is None


def _survey(module):
    """The runs of a container in words, and what stands in the way of more."""
    names, layers = list(module._modules), list(module._modules.values())
    runs, start = [], 0
    while start < len(layers):
        run = _run_at(layers, start)
        length = 1 if run is None else len(run.layers)
        if run is not None:
            chain = ", ".join(_class_of(one).__name__ for one in run.layers)
            runs.append(f"{chain} ({names[start]} to {names[start + length - 1]})")
        start += length
    kinds = [None, *map(_kind, layers), None]
    notes = [
        note
        for name, layer, around in zip(
            names, layers, zip(kinds, kinds[1:], kinds[2:], strict=False), strict=False
        )
        if (note := _reason_in_no_run(name, layer, *around)) is not None
    ]
    return runs, notes


def _what(module):
    runs, notes = _survey(module)
    return "; ".join(runs) + (f"; but {'; '.join(notes)}" if notes else "")


def _kind(layer):
    if isinstance(layer, LINEAR_AND_CONV) or type(layer).__name__ in _PRODUCT_NAMES:
        return "product"
    if isinstance(layer, _DropoutNd):
        return "drop"
    return "act" if is_activation(layer) else None


def _reason_in_no_run(name, layer, before, kind, after):
    """Why a layer is in no run, though its neighbours call for one."""
    if kind == "product" and after in ("act", "drop"):
        return linear_not_fusable(name, layer, LINEAR_AND_CONV)
    if kind == "drop" and before in ("product", "act"):
        return None if _is_drop(layer) else _drop_reason(name, layer)
    if kind == "act" and (before == "product" or after == "drop"):
        return activation_not_fusable(name, layer)
    if kind is None and before == "product" and after == "drop" and _may_be_activation(layer):
        return activation_not_fusable(name, layer)
    return None


def _may_be_activation(layer):
    module = type(layer).__module__
    return not module.startswith("torch.nn.modules.") or module == nn.ReLU.__module__


def _drop_reason(name, layer):
    types = (nn.Dropout, *_CHANNELS, nn.AlphaDropout)
    return (
        child_not_fusable(name, layer, types) or f"{name} is {class_name(layer)}, which has no run"
    )


# A subclass with a forward of its own is a module like any other.
add_pattern(
    "sequential",
    FusedSequential,
    lambda cls: issubclass(cls, nn.Sequential) and cls.forward is nn.Sequential.forward,
    _what,
    lambda cls: (
        "Sequential.forward was exchanged" if is_replaced(nn.Sequential, "forward") else None
    ),
)
