"""Evaluation mode with active dropout layers."""

import warnings

from torch import nn

from fused_dropout.modules._stochastic import is_dropout, never_drops
from fused_dropout.monte_carlo._contexts import Dropping


def mc_mode(model, only=None):
    """Creates a context in which a model is in evaluation mode while its dropout layers drop.

    Batch normalisation and all other modules that differ between training and evaluation are in
    evaluation mode. When the context ends, also by an exception, every module gets back the
    `training` flag that it had before. The context only sets flags. It does not call `train()` or
    `eval()`, which a module may override.

    These modules count as dropout layers:

    - the dropout layers of `torch.nn` and their subclasses;
    - the modules of this package;
    - every module with an attribute `is_dropout = True`. Set it on your own classes that call
      `F.dropout(x, p, self.training)`;
    - `torch.nn.MultiheadAttention` and recurrent layers with `dropout > 0`.

    torch's fast path of transformers skips dropout in evaluation mode. It is switched off for the
    whole process (`torch.backends.mha`) until the last context has ended.

    Contexts may overlap: on one model or on models that share modules, nested or not, in one thread
    or in several. They may end in any order. The context that was entered last determines the flag
    of a module. When the last context of a module ends, the module gets the flag that it had before
    the first. Flags belong to the model, so other threads that call the model see them too.

    `fused_dropout.mc_dropout` is in such a context during its passes, so several threads may
    predict with one model at the same time. Two threads cannot have different layers of one model
    drop at the same time: the second one gets a RuntimeError. Use a copy of the model in this case.

    Equivalent PyTorch code, for a model whose only dropout layers are `nn.Dropout`:

        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()

    Args:
        model: a `torch.nn.Module`.
        only: the dropout layers that drop: a class, a name as in `model.named_modules()` (of a
            layer, or of a module that contains layers), a tuple, list or set of these, or a
            function that gets a layer and returns a bool. None means all dropout layers.

    Returns:
        Dropping: a context manager and decorator. As a context manager it yields a dict of the
            layers that drop, by name.

    Raises:
        TypeError: if `model` is not a module, or `only` is of another type.
        ValueError: if the model has no dropout layer, or `only` selects none.
        RuntimeError: on entering, if another thread is in a context that needs another flag for a
            module of this model.

    Warns:
        UserWarning: if all layers that drop have `p = 0`.
    """
    return Dropping("mc_mode", model, choose_layers("mc_mode", model, only))


def choose_layers(function, model, only):
    """Returns {name: layer} of the dropout layers of `model` that `only` selects."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}: model is of type {type(model).__name__}, but expected a torch.nn.Module"
        )
    # A layer that several modules share is listed under each of its names.
    named = model.named_modules(remove_duplicate=False)
    layers = {name: module for name, module in named if is_dropout(module)}
    if not layers:
        raise ValueError(
            f"{function}: {type(model).__name__} has no dropout layer, but expected at least one: "
            "a layer of torch.nn or fused_dropout, an attention or recurrent layer with "
            "dropout > 0, or a module with an attribute is_dropout = True. Set this attribute on "
            "your own classes that call F.dropout(x, p, self.training)"
        )
    if only is not None:
        chosen = _matching(function, only, layers)
        if not chosen:
            raise ValueError(
                f"{function}: only is {only!r}, which selects none of the dropout layers "
                + ", ".join(f"{name!r} ({type(m).__name__})" for name, m in layers.items())
            )
        layers = chosen
    if all(never_drops(layer) for layer in layers.values()):
        warnings.warn(
            f"{function}: all dropout layers that drop have p = 0, so all samples are equal",
            stacklevel=3,
        )
    return layers


def _matching(function, only, layers):
    wanted = tuple(only) if isinstance(only, (tuple, list, set, frozenset)) else (only,)
    classes = tuple(one for one in wanted if isinstance(one, type))
    names = [one for one in wanted if isinstance(one, str)]
    if len(classes) + len(names) == len(wanted):
        for name in names:
            if not any(_is_within(layer, name) for layer in layers):
                raise ValueError(
                    f"{function}: only has {name!r}, but the dropout layers are "
                    + ", ".join(map(repr, layers))
                )
        return {
            name: layer
            for name, layer in layers.items()
            if isinstance(layer, classes) or any(_is_within(name, one) for one in names)
        }
    if callable(only) and not isinstance(only, nn.Module):
        return {name: layer for name, layer in layers.items() if only(layer)}
    raise TypeError(
        f"{function}: only is {only!r}, but expected None, a class, a name, several of those, or a "
        "function of a layer"
    )


def _is_within(name, ancestor):
    return name == ancestor or name.startswith(ancestor + ".") or not ancestor
