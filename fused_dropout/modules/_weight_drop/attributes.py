"""Copies attributes from modules to their views, and back after forward."""

import functools
import types

import torch
from torch import nn

# The attributes of every module. Of these, forward can only set the flag.
_MODULE_ATTRIBUTES = frozenset(nn.Module().__dict__) - {"training"}


def share_attributes(weight_drop, module):
    """Gives a WeightDrop the attributes of the module that it wraps."""
    views = {id(module): weight_drop}
    state = {key: _redirected(value, views) for key, value in module.__dict__.items()}
    weight_drop.__dict__.update(state)


def redirect(state, private, views):
    """Replaces modules that have a view by the view, in plain attributes that refer to them."""
    for key in state.keys() - _MODULE_ATTRIBUTES - private:
        value = state[key]
        new = _redirected(value, views)
        if new is not value:
            state[key] = new
            private.add(key)
        elif key == "forward":
            raise TypeError("WeightDrop: the forward of a submodule has been replaced by another")


def _redirected(value, views):
    kind = type(value)
    if kind is types.MethodType:
        view = views.get(id(value.__self__))
        # torch.compile does not support `types.MethodType`.
        bind = functools.partial if torch.compiler.is_compiling() else types.MethodType
        return value if view is None else bind(value.__func__, view)
    if isinstance(value, nn.Module):
        view = views.get(id(value))
        return value if view is None else view
    if kind not in (list, tuple, dict) or not value:
        return value
    # Only the first item is checked, so that large containers of other values cost nothing.
    items = list(value.values() if kind is dict else value)
    if not isinstance(items[0], (nn.Module, types.MethodType)):
        return value
    new = [_redirected(one, views) for one in items]
    if all(one is other for one, other in zip(new, items, strict=True)):
        return value
    return dict(zip(value, new, strict=True)) if kind is dict else kind(new)


def carry_back(made):
    """Sets, replaces or deletes on the modules the attributes that forward changed on the views."""
    originals = {id(one.view): one.module for one in made}
    for one in made:
        state, before, after = one.module.__dict__, one.before, one.view.__dict__
        for key in after.keys() - _MODULE_ATTRIBUTES - one.private:
            value = after[key]
            target = before["_buffers"] if key in before["_buffers"] else before
            if key not in target or target[key] is not value:
                target = state if target is before else target
                target[key] = originals.get(id(value), value)
        for key in before.keys() - after.keys() - one.private:
            state.pop(key, None)
        for kind, given in (("_parameters", one.parameters), ("_modules", one.children)):
            for key, value in dict(after[kind]).items():
                if given.get(key) is not value:
                    state[kind][key] = originals.get(id(value), value)
