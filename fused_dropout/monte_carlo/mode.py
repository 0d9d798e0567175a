"""Evaluation with dropout: which layers drop, and for how long."""

import warnings

from torch import nn

from fused_dropout.modules._stochastic import is_dropout, never_drops
from fused_dropout.monte_carlo._contexts import Dropping


def mc_mode(model, only=None):
    """A context in which ``model`` is in evaluation mode, but for its dropout layers.

    Batch normalisation and everything else that tells training from evaluation stays in
    evaluation. On leaving, also by an exception, every module has the ``training`` flag that it
    had, whatever was done to it inside; only flags are set, no ``train()`` or ``eval()`` that a
    module overrides is called.

    Contexts may overlap, on one model or on several that share modules, nested or not, in one
    thread or in many, and may end in any order. Of those that cover a module the one entered last
    decides, and when the last of them has ended the module has the flag that it had before the
    first. Flags belong to the model: other threads that call it meanwhile see them too.
    :func:`mc_dropout` enters such a context for the time of its passes, so that several threads may
    predict with one model at once. Threads that want different layers of one model to drop at one
    time cannot be served: the second one gets a RuntimeError; give it a copy of the model.

    Dropout layers are ``torch.nn``'s and their subclasses, this package's modules, every module
    with a true attribute ``is_dropout`` (a class of your own that calls ``F.dropout(x, p,
    self.training)`` should have it), and those of ``torch.nn`` that drop inside:
    ``MultiheadAttention`` and recurrent layers with ``dropout > 0``. Dropout in evaluation is
    skipped by torch's fast path of transformers, so that the fast path is switched off for the
    whole process (``torch.backends.mha``) until the last context has ended.

    Args:
        model: a ``torch.nn.Module``.
        only: which of the dropout layers shall drop: a class, a name as in
            ``model.named_modules()`` (of a layer or of anything that contains layers), a tuple,
            list or set of those, or a function of a layer that tells. None: all.

    Yields:
        dict: the layers that drop, by name.

    Errors: ValueError if the model has no dropout layer or none is chosen, TypeError for anything
    but a module or such an ``only``; RuntimeError on entering while another thread is in a context
    that wants another flag for a module of this model. Warns if every layer that is to drop has
    ``p = 0``.

    Equivalent, for a model of ``nn.Dropout`` alone::

        model.eval()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.train()
    """
    return Dropping("mc_mode", model, choose_layers("mc_mode", model, only))


def choose_layers(function, model, only):
    """{name: layer} of the dropout layers of `model` that `only` means."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}: model is of type {type(model).__name__}, but expected a torch.nn.Module"
        )
    # A layer that several modules share is found under each name.
    named = model.named_modules(remove_duplicate=False)
    layers = {name: module for name, module in named if is_dropout(module)}
    if not layers:
        raise ValueError(
            f"{function}: {type(model).__name__} has no dropout layer, so nothing would be random. "
            "Looked for torch.nn's and fused_dropout's, attention and recurrent layers with "
            "dropout > 0, and modules with a true attribute is_dropout: give it to classes of your "
            "own that call F.dropout(x, p, self.training)"
        )
    if only is not None:
        chosen = _matching(function, only, layers)
        if not chosen:
            raise ValueError(
                f"{function}: only={only!r} chooses none of the dropout layers, which are "
                + ", ".join(f"{name!r} ({type(m).__name__})" for name, m in layers.items())
            )
        layers = chosen
    if all(never_drops(layer) for layer in layers.values()):
        warnings.warn(
            f"{function}: every dropout layer that is to drop has p = 0: all samples will be equal",
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
