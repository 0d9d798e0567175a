"""What the attributes of a module are, as far as its code mentions them."""

import ast
import functools

from torch import nn

from fused_dropout.fusion.activations import activation_of, is_activation
from fused_dropout.fusion.drop_path import is_drop_path
from fused_dropout.fusion.dropout_layers import DROPOUT
from fused_dropout.fusion.fused_calls import BIAS_DIMS
from fused_dropout.fusion.norms import add_norm_class, is_norm
from fused_dropout.fusion.structure.norms import norm_of_class

#: The roles. Other modules are "module"; what is not a module and not an activation has none.
DROP = "dropout"
INPLACE_DROP = "dropout that changes its input"
DROP_PATH = "stochastic depth"
ACTIVATION = "activation"
RELU = "relu"  # without dropout, a kernel is not faster than torch
INPLACE_ACTIVATION = "activation that changes its input"
NORM = "norm"
LINEAR = "linear"
BRANCH = "branch"  # a module that ends with dropout, or a list that contains such modules
MODULE = "module"


def roles_of(module, paths, opens):
    """``{path: role}`` for the attributes of a module, such as "mlp.fc1".

    Args:
        module: a module.
        paths: the paths of attributes that its code mentions.
        opens: function of a module; whether it ends with dropout, see ``branches.py``.
    """
    found = ((path, _role(module, path, opens)) for path in paths)
    return {path: role for path, role in found if role is not None}


def paths_in(tree):
    """The paths of the attributes that the code of a method mentions, a set."""
    self_name = first_parameter(tree)
    return {path_of(node, self_name) for node in ast.walk(tree)} - {None}


def first_parameter(tree):
    arguments = tree.args.posonlyargs + tree.args.args
    return arguments[0].arg


def path_of(node, self_name):
    """The path "a.b" of an expression ``self.a.b``; None for other expressions."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if names and isinstance(node, ast.Name) and node.id == self_name:
        return ".".join(reversed(names))
    return None


def _role(module, path, opens):
    value = module
    for name in path.split("."):
        if not isinstance(value, nn.Module):
            return None
        # Not `getattr`, which would run properties.
        value = value._modules.get(name, vars(value).get(name))
    if not isinstance(value, nn.Module):
        activation = activation_of(value)
        if activation is None:
            return None
        return RELU if activation.activation == "relu" else ACTIVATION
    # By the class alone: a child that has hooks now may lose them later.
    inplace = getattr(value, "inplace", False)
    if type(value) is nn.Identity:
        return MODULE
    if type(value) in DROPOUT:
        return INPLACE_DROP if inplace else DROP
    if is_drop_path(value):
        return DROP_PATH
    if is_activation(value):
        if inplace:
            return INPLACE_ACTIVATION
        return RELU if type(value) is nn.ReLU else ACTIVATION
    if _is_norm(value):
        return NORM
    if type(value) in BIAS_DIMS:
        return LINEAR
    if opens(value) or (isinstance(value, nn.ModuleList) and any(map(opens, value.modules()))):
        return BRANCH
    return MODULE


def _is_norm(module):
    return is_norm(module) or _add_norm_by_its_code(type(module))


@functools.cache
def _add_norm_by_its_code(cls):
    """Adds a class to the norms if its code is that of a norm. Returns whether it is."""
    norm = norm_of_class(cls)
    if norm is None:
        return False
    add_norm_class(cls, norm.kind, norm.parameters)
    return True
