"""Finds a weight by its name: a parameter, or a tensor that torch computes from parameters.

`torch.nn.utils` computes weights in two ways. Hooks run before forward and set a plain attribute
(`weight_norm`, `spectral_norm`, `prune`). Parametrisations are properties of the module. WeightDrop
drops the tensor that forward uses.
"""

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def names_of(module):
    """Returns all names that `check_name` accepts."""
    names = []
    for path, owner in module.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        computed = [_result(hook) for hook in _computing(owner).values()]
        if "parametrizations" in owner._modules:
            computed += owner._modules["parametrizations"]._modules
        sources = {source for hook in _computing(owner).values() for source in _sources(hook)}
        own = [name for name, one in owner._parameters.items() if one is not None]
        names += [prefix + name for name in own if name not in sources]
        names += [prefix + name for name in dict.fromkeys(computed)]
    return names


def check_name(module, name):
    """Raises an error if the weight cannot be dropped."""
    path, _, key = name.rpartition(".")
    owner = _owner(module, path)
    if owner is not None:
        _check_path(module, path)
    for hook in _computing(owner).values() if owner is not None else ():
        if key in _sources(hook):
            result = name.removesuffix(key) + _result(hook)
            raise ValueError(
                f"WeightDrop: weights has {name!r}, from which a hook of torch.nn.utils computes "
                f"{result!r} before forward, but expected {result!r}, which forward uses"
            )
    if owner is None or not _is_weight(owner, key):
        raise ValueError(
            f"WeightDrop: {type(module).__name__} has no parameter {name!r}; it has "
            + (", ".join(names_of(module)) or "none")
        )
    lazy = isinstance(owner._parameters.get(key), nn.parameter.UninitializedParameter)
    # The first call of a lazy module changes its class.
    if lazy or (isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()):
        raise ValueError(
            f"WeightDrop: {name!r} has no shape yet; call the {type(module).__name__} once before "
            "it is wrapped"
        )


def check_names(names):
    for name in names:
        owner, found, rest = f".{name}".partition(".parametrizations.")
        effective = f"{owner}.{rest.partition('.')[0]}".removeprefix(".")
        if found and effective in names:
            raise ValueError(
                f"WeightDrop: weights has both {effective!r} and {name!r}, from which "
                f"{effective!r} is computed, but expected one of them"
            )


def _check_path(module, path):
    """Raises an error if a submodule on the path to a weight cannot have a view."""
    for name in path.split(".") if path else ():
        module = module._modules[name]
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"WeightDrop: {name!r} is a TorchScript module, whose weights cannot be dropped"
            )
        forward = module.__dict__.get("forward")
        if forward is not None and getattr(forward, "__self__", None) is not module:
            raise TypeError(
                f"WeightDrop: the forward of {name!r}, a {type(module).__name__}, has been "
                "replaced by another"
            )


def _owner(module, path):
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _is_weight(owner, key):
    return (
        owner._parameters.get(key) is not None
        or key in map(_result, _computing(owner).values())
        or ("parametrizations" in owner._modules and key in owner.parametrizations)
    )


def weight_and_hooks(root, name):
    """Returns (owner, key, the weight that its forward uses, keys of the hooks that compute it)."""
    path, _, key = name.rpartition(".")
    owner = root.get_submodule(path)
    if owner._parameters.get(key) is not None:
        return owner, key, owner._parameters[key], ()
    hooks = {one: hook for one, hook in _computing(owner).items() if _result(hook) == key}
    for hook in hooks.values():
        # The hooks of the root module have run already, but threads share the result.
        return owner, key, _computed(hook, owner, owner is root), tuple(hooks)
    weight = getattr(owner, key, None)
    if not isinstance(weight, torch.Tensor):
        raise RuntimeError(f"WeightDrop: {type(root).__name__} has no parameter {name!r} any more")
    return owner, key, weight, ()  # parametrised, or in a DataParallel replica


# ---------------------------------------------------------------- hooks of torch.nn.utils


def _computing(owner):
    """Returns {key: hook} of the hooks that compute a weight before forward."""
    return {
        key: hook
        for key, hook in owner._forward_pre_hooks.items()
        if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod))
    }


def _result(hook):
    return hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name


def _sources(hook):
    name = _result(hook)
    return (f"{name}_g", f"{name}_v") if isinstance(hook, WeightNorm) else (f"{name}_orig",)


def _computed(hook, owner, has_run):
    """Computes the weight of a hook without setting it on the module."""
    if isinstance(hook, BasePruningMethod):
        return hook.apply_mask(owner)
    if isinstance(hook, WeightNorm):
        return hook.compute_weight(owner)
    if owner.training and not has_run:
        return hook.compute_weight(owner, do_power_iteration=True)
    # Copies, because the next power iteration changes the vectors in place and backward needs them.
    name = hook.name
    attributes = {f"{name}_orig": getattr(owner, f"{name}_orig")}
    attributes |= {f"{name}_{part}": getattr(owner, f"{name}_{part}").clone() for part in "uv"}
    return hook.compute_weight(_Attributes(attributes), do_power_iteration=False)


class _Attributes:
    def __init__(self, attributes):
        self.__dict__.update(attributes)
