"""Attributes of modules and of their views: what leads from one to the other and back."""

import functools
import types

import torch
from torch import nn

# What every module has. Of these only the flag can be set by a forward.
_PARTS = frozenset(nn.Module().__dict__) - {"training"}


def take_over(dropping, module):
    """Gives a WeightDrop the attributes of the module that it wraps."""
    views = {id(module): dropping}
    state = {key: _redirected(value, views) for key, value in module.__dict__.items()}
    dropping.__dict__.update(state)


def redirect(state, private, views):
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
        # The compiler knows no other way to bind a method.
        bind = functools.partial if torch.compiler.is_compiling() else types.MethodType
        return value if view is None else bind(value.__func__, view)
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


def carry_back(made):
    """Gives the modules the attributes that a forward has set, exchanged or deleted."""
    originals = {id(one.view): one.module for one in made}
    for one in made:
        state, before, after = one.module.__dict__, one.before, one.view.__dict__
        for key in after.keys() - _PARTS - one.private:
            value = after[key]
            place = before["_buffers"] if key in before["_buffers"] else before
            if key not in place or place[key] is not value:
                place = state if place is before else place
                place[key] = originals.get(id(value), value)
        for key in before.keys() - after.keys() - one.private:
            state.pop(key, None)
        for kind, given in (("_parameters", one.parameters), ("_modules", one.children)):
            for key, value in dict(after[kind]).items():
                if given.get(key) is not value:
                    state[kind][key] = originals.get(id(value), value)
