"""A module as it is with other weights: a view of it, for one call and one thread.

A view is an object of the module's class with a copy of its dictionary of attributes. It has other
tensors in place of some parameters and other views in place of the children that need one; buffers
and all that is in place are the module's own.
"""

import functools
import weakref

import torch
from torch import nn
from torch.nn.utils import parametrize

from fused_dropout.modules._weight_drop.attributes import carry_back, redirect
from fused_dropout.modules._weight_drop.recurrent import laid_out_like

_OBSERVERS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class Weights:
    """What a module's view has in place of its weights.

    values: the tensors by name.
    hooks: those of the module's pre-hooks, by their keys, that would compute them anew.
    """

    def __init__(self, values, hooks):
        self.values = values
        self.hooks = hooks


def forward_with(module, cls, weights, args, kwargs, unread=None):
    """What the forward that ``module`` has from ``cls`` computes with other weights.

    ``weights`` are :class:`Weights` by the id of the module that they are of, ``module`` or any
    inside. A list ``unread`` gets the (id, name) of those parameters that forward does not look at.
    """
    views, made = {}, []
    root = _view_of(module, cls, weights, views, made, unread is not None)
    for one in made:
        redirect(one.view.__dict__, one.private, views)
    try:
        result = cls.forward(root, *args, **kwargs)
    finally:
        carry_back(made)
    if unread is not None:
        for one in made:
            names = one.view.__dict__["_parameters"].unread
            unread += [(id(one.module), name) for name in names]
    return result


def _view_of(module, cls, weights, views, made, watch):
    """The view of a module as `cls`; None where the module itself will do."""
    if id(module) in views:
        return views[id(module)]
    views[id(module)] = None
    own = weights.get(id(module))
    children = {}
    if own is None or len(weights) > 1:
        for key, child in module._modules.items():
            if child is not None:
                view = _view_of(child, type(child), weights, views, made, watch)
                if view is not None:
                    children[key] = view
    if own is None and not children:
        return None
    values = {} if own is None else own.values
    before = dict(module.__dict__)
    after = dict(before)
    private = {*values, "_compiled_call_impl"}
    parameters = dict(before["_parameters"].items())
    for name, value in values.items():
        (parameters if name in parameters else after)[name] = value
    if watch:
        parameters = _Watched(parameters, [name for name in values if name in parameters])
    after["_parameters"] = parameters
    after["_modules"] = {**before["_modules"], **children}
    if after.get("_compiled_call_impl") is not None:
        after["_compiled_call_impl"] = None  # it is compiled for the module itself
    if torch.compiler.is_compiling() and before["_buffers"]:
        # The compiler cannot follow how a module that it has seen made gets another buffer.
        after.update(before["_buffers"])
        after["_buffers"] = {}
    if own is not None and own.hooks:
        hooks = before["_forward_pre_hooks"].items()
        after["_forward_pre_hooks"] = {key: hook for key, hook in hooks if key not in own.hooks}
    for kind in _OBSERVERS:
        if before[kind]:
            after[kind] = {key: _of_module(hook, module) for key, hook in before[kind].items()}
    parametrised = ()
    if "parametrizations" in module._modules:
        parametrised = tuple(module._modules["parametrizations"]._modules)
        if parametrize._cache_enabled:
            cls = _without_cache(cls, parametrised)
    # Never `cls()` or `cls.__new__`, which a class can have changed.
    view = object.__new__(cls)
    view.__dict__.update(after)
    if parametrised:
        _give_parametrised(module, cls, view, values)
        private.update(parametrised)
    if isinstance(module, nn.RNNBase):
        _give_flat_weights(module, view, values)
        private |= {"_flat_weights", "_flat_weight_refs"}
    views[id(module)] = view
    made.append(_Made(module, view, before, private))
    return view


class _Made:
    """A view, and what was given to it: what differs afterwards a forward has set.

    before: the attributes of the module.
    private: names of those that the view has of its own.
    """

    def __init__(self, module, view, before, private):
        self.module = module
        self.view = view
        self.before = before
        self.private = private
        self.parameters = dict(view.__dict__["_parameters"])
        self.children = dict(view.__dict__["_modules"])


class _Watched(dict):
    """Parameters; knows which of some names nobody has asked for."""

    def __init__(self, parameters, names):
        super().__init__(parameters)
        self.unread = set(names)

    def __getitem__(self, name):
        self.unread.discard(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.unread.discard(name)
        return super().get(name, default)

    def items(self):
        self.unread.clear()
        return super().items()

    def values(self):
        self.unread.clear()
        return super().values()


def _of_module(hook, module):
    """A hook that looks on; it gets the module, whose view is nobody's affair."""

    @functools.wraps(hook)
    def call(_, *args, **kwargs):
        return hook(module, *args, **kwargs)

    return call


# ---------------------------------------------------------------- parametrised modules


class _Given(nn.Module):
    """Stands for the parametrisation of a tensor that is given."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self):
        return self.tensor


def _give_parametrised(module, cls, view, values):
    """Lets the properties of a parametrised module's view compute what is given."""
    state = view.__dict__
    children = state["_modules"]
    original = children["parametrizations"]
    lists = object.__new__(type(original))
    lists.__dict__.update(original.__dict__)
    given = {name: _Given(value) for name, value in values.items() if name in original._modules}
    lists.__dict__["_modules"] = {**original._modules, **given}
    children["parametrizations"] = lists
    for name in original._modules:
        # The module that a WeightDrop wraps has no property if it is parametrised afterwards.
        if not hasattr(cls, name):
            state[name] = values[name] if name in values else getattr(module, name)


@functools.cache
def _without_cache(cls, names):
    """`cls`, but the properties keep nothing in the cache of `torch.nn.utils.parametrize`.

    That is one for all: its keys are those of the module, not of the view.
    """

    def computed(name):
        return property(lambda view: view.parametrizations[name]())

    names = {name: computed(name) for name in names}
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **names})


# ---------------------------------------------------------------- recurrent layers


def _give_flat_weights(rnn, view, values):
    """Fills the lists in which a recurrent layer of torch keeps its weights."""
    names = rnn._flat_weights_names
    weights = [getattr(view, name, None) for name in names]
    moves = values and "parametrizations" not in rnn._modules
    if moves and not torch.compiler.is_compiling():
        weights = laid_out_like([getattr(rnn, name) for name in names], weights)
        for name, weight in zip(names, weights, strict=True):
            place = view._parameters if name in view._parameters else view.__dict__
            if name in values or name in view._parameters:
                place[name] = weight
    state = view.__dict__
    state["_flat_weights"] = weights
    # With references to what is there, the layer does not see a reason to flatten its weights,
    # which would move the parameters themselves.
    state["_flat_weight_refs"] = [None if w is None else weakref.ref(w) for w in weights]
