"""Views: copies of a module with other weights, for one call in one thread.

A view is an object of the module's class with a copy of the module's attribute dictionary. In this
copy some parameters are replaced by other tensors, and children that need a view by their view. All
other values, such as buffers, are those of the module.
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
    """Tensors that replace weights in the view of a module.

    values: {name: tensor}.
    hooks: keys of the module's forward pre-hooks that compute these weights. The view does not run
        them.
    """

    def __init__(self, values, hooks):
        self.values = values
        self.hooks = hooks


def forward_with(module, cls, weights, args, kwargs, unread=None):
    """Runs `cls.forward` of `module` with other weights.

    `weights` is {id of `module` or a submodule: `Weights`}. If `unread` is a list, the (id, name)
    of every parameter that forward does not read is appended to it.
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


def _view_of(module, cls, weights, views, made, track_reads):
    """Returns the view of a module, an object of `cls`, or None if the module needs no view."""
    if id(module) in views:
        return views[id(module)]
    views[id(module)] = None
    own = weights.get(id(module))
    children = {}
    if own is None or len(weights) > 1:
        for key, child in module._modules.items():
            if child is not None:
                view = _view_of(child, type(child), weights, views, made, track_reads)
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
    if track_reads:
        parameters = _TrackedDict(parameters, [name for name in values if name in parameters])
    after["_parameters"] = parameters
    after["_modules"] = {**before["_modules"], **children}
    if after.get("_compiled_call_impl") is not None:
        after["_compiled_call_impl"] = None  # compiled for the module, not for the view
    if torch.compiler.is_compiling() and before["_buffers"]:
        # torch.compile cannot trace that a module created in the trace gets another buffer.
        after.update(before["_buffers"])
        after["_buffers"] = {}
    if own is not None and own.hooks:
        hooks = before["_forward_pre_hooks"].items()
        after["_forward_pre_hooks"] = {key: hook for key, hook in hooks if key not in own.hooks}
    for kind in _OBSERVERS:
        if before[kind]:
            after[kind] = {key: _bound_to(module, hook) for key, hook in before[kind].items()}
    parametrised = ()
    if "parametrizations" in module._modules:
        parametrised = tuple(module._modules["parametrizations"]._modules)
        if parametrize._cache_enabled:
            cls = _without_cache(cls, parametrised)
    # Not `cls()` or `cls.__new__`, which the class may override.
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
    """A view and its initial values. Values that differ after forward were set by forward.

    before: the attributes of the module before forward.
    private: names of attributes that only the view has.
    """

    def __init__(self, module, view, before, private):
        self.module = module
        self.view = view
        self.before = before
        self.private = private
        self.parameters = dict(view.__dict__["_parameters"])
        self.children = dict(view.__dict__["_modules"])


class _TrackedDict(dict):
    """Parameters. `unread` holds those of the given names that were not read yet."""

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


def _bound_to(module, hook):
    """A hook that is called with the module instead of its view."""

    @functools.wraps(hook)
    def call(_, *args, **kwargs):
        return hook(module, *args, **kwargs)

    return call


# ---------------------------------------------------------------- parametrised modules


class _Constant(nn.Module):
    """Replaces a parametrisation by a fixed tensor."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor

    def forward(self):
        return self.tensor


def _give_parametrised(module, cls, view, values):
    """Makes the parametrised properties of a view return the given values."""
    state = view.__dict__
    children = state["_modules"]
    original = children["parametrizations"]
    lists = object.__new__(type(original))
    lists.__dict__.update(original.__dict__)
    constant = {
        name: _Constant(value) for name, value in values.items() if name in original._modules
    }
    lists.__dict__["_modules"] = {**original._modules, **constant}
    children["parametrizations"] = lists
    for name in original._modules:
        # If the wrapped module was parametrised after WeightDrop was created, `cls` does not have
        # the property.
        if not hasattr(cls, name):
            state[name] = values[name] if name in values else getattr(module, name)


@functools.cache
def _without_cache(cls, names):
    """A subclass of `cls` whose properties bypass the cache of `torch.nn.utils.parametrize`.

    The keys of that cache identify the module, not the view.
    """

    def computed(name):
        return property(lambda view: view.parametrizations[name]())

    names = {name: computed(name) for name in names}
    return type(cls.__name__, (cls,), {"__module__": cls.__module__, **names})


# ---------------------------------------------------------------- recurrent layers


def _give_flat_weights(rnn, view, values):
    """Fills the weight lists of torch's recurrent layers."""
    names = rnn._flat_weights_names
    weights = [getattr(view, name, None) for name in names]
    moves = values and "parametrizations" not in rnn._modules
    if moves and not torch.compiler.is_compiling():
        weights = laid_out_like([getattr(rnn, name) for name in names], weights)
        for name, weight in zip(names, weights, strict=True):
            target = view._parameters if name in view._parameters else view.__dict__
            if name in values or name in view._parameters:
                target[name] = weight
    state = view.__dict__
    state["_flat_weights"] = weights
    # If these references are up to date, the layer does not flatten its weights again. That would
    # move the parameters themselves.
    state["_flat_weight_refs"] = [None if w is None else weakref.ref(w) for w in weights]
