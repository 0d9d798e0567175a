"""Pattern for ``nn.Sequential``.

It fuses runs of neighbouring layers: a linear layer or convolution, an activation, dropout.
"""

from typing import NamedTuple

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from fused_dropout import modules as M
from fused_dropout.fusion.activations import activation_not_fusable, activation_of, is_activation
from fused_dropout.fusion.branches import linear_branch
from fused_dropout.fusion.class_swap import FusedMixin, class_of
from fused_dropout.fusion.dropout_layers import dropout_arguments, dropout_not_fusable
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
    linear_called,
    linear_output,
)
from fused_dropout.fusion.registry import add_pattern

# Quantised layers have the same class names, but are no subclasses.
_LINEAR_NAMES = {cls.__name__ for cls in LINEAR_AND_CONV}

# {class: number of dimensions of batched input}. A run drops channels of batched input only; the
# layer itself tells other input from its shape.
_CHANNELS = {nn.Dropout1d: 3, nn.Dropout2d: 4, nn.Dropout3d: 5}


class Run(NamedTuple):
    """Neighbouring layers that are computed together: at least two of these three."""

    linear: nn.Module | None
    act: nn.Module | None
    drop: nn.Module | None

    @property
    def layers(self):
        return [layer for layer in self if layer is not None]


class FusedSequential(FusedMixin):
    """Searches for runs at every call, because layers can be replaced, added and hooked."""

    @staticmethod
    def reason_not_fusable(module):
        runs, notes = _survey(module)
        return None if runs else "; ".join(notes)

    @classmethod
    def dropouts_in_kernels(cls, module):
        runs = _runs(list(module._modules.values()))
        return [run.drop for _, run in runs if run.drop is not None]

    def runs_fused(self, args, kwargs):
        return self.has_original_methods()

    def fused_forward(self, input):
        return run_layers(list(self._modules.values()), input)

    def open_forward(self, input):
        """See ``branches.py``."""
        layers = list(self._modules.values())
        may_split = self.training and ends_with_dropout(self) and not has_global_hooks()
        if not (may_split and is_supported_tensor(input)):
            return self.fused_forward(input), None, None
        *layers, linear, drop = layers
        return linear_branch(linear, drop, run_layers(layers, input))


def ends_with_dropout(module):
    """Whether a module is an ``nn.Sequential`` that ends with a linear layer and dropout."""
    cls = class_of(module)
    if cls.forward is not nn.Sequential.forward or cls.__call__ is not nn.Module.__call__:
        return False
    linear, drop = (None, None, *module._modules.values())[-2:]
    return (
        linear is not None
        and (type(linear) in BIAS_DIMS or linear_called("", linear) is not None)
        and dropout_not_fusable("", drop) is None
        and type(drop) is not nn.Identity
    )


def run_layers(layers, x):
    """Applies the layers one after the other, with fused kernels for the runs among them."""
    may_fuse = any(layer.training for layer in layers) and not has_global_hooks()
    start = 0
    while start < len(layers):
        run = _run_at(layers, start) if may_fuse and is_supported_tensor(x) else None
        if run is None or not any(layer.training for layer in run.layers):
            x = layers[start](x)
            start += 1
        else:
            x = _compute(run, x)
            start += len(run.layers)
    return x


def _compute(run, x):
    bias, bias_dim = None, -1
    if run.linear is not None:
        x, bias = linear_output(run.linear, x)
        bias_dim = BIAS_DIMS[type(run.linear)]
    drop = None if run.drop is None else _run_dropout_arguments(run.drop, x)
    result = bias_act_drop(x, bias, run.act, drop, bias_dim)
    return result if run.drop is None or drop is not None else run.drop(result)


def _run_dropout_arguments(drop, x):
    """The arguments of the dropout call; None if the layer itself has to be called for x."""
    cls = class_of(drop)
    if cls in _CHANNELS:
        if x.dim() != _CHANNELS[cls]:
            return None
        return {"p": drop.p, "training": drop.training, "shared_dims": tuple(range(2, x.dim()))}
    if cls is nn.AlphaDropout:
        return {"p": drop.p, "training": drop.training, "mode": "alpha"}
    return dropout_arguments(drop)


def _run_at(layers, start):
    """The run of two or three layers that starts at an index; None if there is none."""
    rest = iter(layers[start : start + 3])
    layer = next(rest, None)
    linear = act = drop = None
    if type(layer) in LINEAR_AND_CONV and linear_not_fusable("", layer, LINEAR_AND_CONV) is None:
        linear, layer = layer, next(rest, None)
    if isinstance(layer, nn.Module) and activation_of(layer) is not None:
        if linear is None and getattr(layer, "inplace", False):
            return None  # the caller may rely on the change of its tensor
        act, layer = layer, next(rest, None)
    if _can_end_run(layer):
        drop = layer
    run = Run(linear, act, drop)
    return run if len(run.layers) > 1 else None


def _can_end_run(layer):
    """Whether a layer is a dropout layer that a run can end with. nn.Identity is not."""
    cls = class_of(layer)
    supported = cls in _CHANNELS or cls in (nn.Dropout, M.Dropout, nn.AlphaDropout)
    return supported and child_not_fusable("", layer, (type(layer),)) is None


def _runs(layers):
    """``(index of the first layer, run)`` of all runs."""
    start = 0
    while start < len(layers):
        run = _run_at(layers, start)
        if run is not None:
            yield start, run
        start += 1 if run is None else len(run.layers)


def _survey(module):
    """Descriptions of the runs of a container, and the reasons why other layers are in no run."""
    names, layers = list(module._modules), list(module._modules.values())
    runs = []
    for start, run in _runs(layers):
        classes = ", ".join(class_of(one).__name__ for one in run.layers)
        runs.append(f"{classes} ({names[start]} to {names[start + len(run.layers) - 1]})")
    kinds = [None, *map(_kind, layers), None]
    notes = [
        note
        for name, layer, around in zip(
            names, layers, zip(kinds, kinds[1:], kinds[2:], strict=False), strict=False
        )
        if (note := _reason_in_no_run(name, layer, *around)) is not None
    ]
    return runs, notes


def _describe(module):
    runs, notes = _survey(module)
    return "; ".join(runs) + (f"; not fused: {'; '.join(notes)}" if notes else "")


def _kind(layer):
    if isinstance(layer, LINEAR_AND_CONV) or type(layer).__name__ in _LINEAR_NAMES:
        return "linear"
    if isinstance(layer, _DropoutNd):
        return "drop"
    return "act" if is_activation(layer) else None


def _reason_in_no_run(name, layer, before, kind, after):
    """The reason why a layer is in no run although the kinds of its neighbours would allow one."""
    if kind == "linear" and after in ("act", "drop"):
        return linear_not_fusable(name, layer, LINEAR_AND_CONV)
    if kind == "drop" and before in ("linear", "act"):
        return None if _can_end_run(layer) else _drop_not_fusable(name, layer)
    if kind == "act" and (before == "linear" or after == "drop"):
        return activation_not_fusable(name, layer)
    if kind is None and before == "linear" and after == "drop" and _may_be_activation(layer):
        return activation_not_fusable(name, layer)
    return None


def _may_be_activation(layer):
    module = type(layer).__module__
    return not module.startswith("torch.nn.modules.") or module == nn.ReLU.__module__


def _drop_not_fusable(name, layer):
    types = (nn.Dropout, *_CHANNELS, nn.AlphaDropout)
    reason = child_not_fusable(name, layer, types)
    return reason or f"{name} is {class_name(layer)}, which cannot end a run"


# A subclass that overrides forward may compute anything and does not match.
add_pattern(
    "sequential",
    FusedSequential,
    lambda cls: issubclass(cls, nn.Sequential) and cls.forward is nn.Sequential.forward,
    _describe,
    lambda cls: (
        "Sequential.forward was replaced" if is_replaced(nn.Sequential, "forward") else None
    ),
)
