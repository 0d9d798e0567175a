"""A module as it is with other weights: a view of it, for one call and one thread.

A view is an object of the module's class with a copy of its dictionary of attributes. It has other
tensors in place of some parameters and other views in place of the children that need one; buffers
and all that is in place are the module's own.
"""

import functools
import types
import weakref

import torch
from torch import nn
from torch.nn.utils import parametrize

from fused_dropout.modules._recurrent import laid_out_like

# Attributes of every module. Of these only the flag can be set by a forward.
_PARTS = frozenset(nn.Module().__dict__) - {"training"}
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
    for _, view, _, private in made:
        _redirect(view.__dict__, private, views)
    try:
        result = cls.forward(root, *args, **kwargs)
    finally:
        _carry_back(made)
    if unread is not None:
        for original, view, _, _ in made:
            if isinstance(view._parameters, _Watched):
                unread += [(id(original), name) for name in view._parameters.unread]
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
    parameters = {**before["_parameters"]}
    for name, value in values.items():
        (parameters if name in parameters else after)[name] = value
    if watch:
        parameters = _Watched(parameters, [name for name in values if name in parameters])
    after["_parameters"] = parameters
    after["_modules"] = {**before["_modules"], **children}
    if after.get("_compiled_call_impl") is not None:
        after["_compiled_call_impl"] = None  # it is compiled for the module itself
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
    made.append((module, view, before, private))
    return view


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


# ---------------------------------------------------------------- attributes


def _redirect(state, private, views):
    """Lets attributes that lead to viewed modules, past their parents, lead to the views."""
    for key in state.keys() - _PARTS - private:
        value = state[key]
        new = _redirected(value, views)
        if new is not value:
            state[key] = new
            private.add(key)
        elif key == "forward":
            raise TypeError("WeightDrop: the forward of a module inside has been replaced")


def _redirected(value, views):
    kind = type(value)
    if kind is types.MethodType:
        view = views.get(id(value.__self__))
        return value if view is None else functools.partial(value.__func__, view)
    if isinstance(value, nn.Module):
        view = views.get(id(value))
        return value if view is None else view
    if kind not in (list, tuple, dict) or not value:
        return value
    # One look tells containers of modules from large ones of anything else.
    items = list(value.values() if kind is dict else value)
    if not isinstance(items[0], (nn.Module, types.MethodType)):
        return value
    new = [_redirected(one, views) for one in items]
    if all(one is other for one, other in zip(new, items, strict=True)):
        return value
    return dict(zip(value, new, strict=True)) if kind is dict else kind(new)


def _carry_back(made):
    """Gives the modules the attributes that a forward has set, exchanged or deleted."""
    originals = {id(view): module for module, view, _, _ in made}
    for module, view, before, private in made:
        state, after = module.__dict__, view.__dict__
        for key in after.keys() - _PARTS - private:
            value = after[key]
            if key not in before or before[key] is not value:
                state[key] = originals.get(id(value), value)
        for key in before.keys() - after.keys() - private:
            state.pop(key, None)
        for kind in ("_parameters", "_modules"):
            ours, given = state[kind], before[kind]
            for key in after[kind].keys() - given.keys():
                ours[key] = after[kind][key]
