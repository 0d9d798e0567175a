"""The shapes of expressions: each function takes one apart, or says that it is another.

The letters in docstrings: D is dropout, A an activation, L a linear layer.
"""

import ast

import torch
import torch.nn.functional as F

from fused_dropout.fusion.activations import is_pure_function
from fused_dropout.fusion.structure import roles

ACTIVATIONS = (roles.ACTIVATION, roles.RELU, roles.INPLACE_ACTIVATION)
_DROPS = (roles.DROP, roles.INPLACE_DROP)
_CALLED = (roles.MODULE, roles.LINEAR, roles.BRANCH)


class Shapes:
    """The shapes of expressions in one function. The parts of another shape are None.

    Args:
        code: a :class:`~.code.Code`.
    """

    def __init__(self, code):
        self.code = code

    def dropout(self, node):
        """``(dropout, x)`` for D(x). The dropout is an expression for ``fused_calls.py``."""
        if not isinstance(node, ast.Call):
            return None, None
        if self.code.value(node.func) is F.dropout:
            return self._functional(node)
        x = argument(node)
        role = self.code.role(node.func)
        if x is None or role not in _DROPS:
            return None, None
        if role == roles.INPLACE_DROP and not self._is_new(x):
            return None, None
        return node.func, x

    def _functional(self, node):
        given = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False))
        given |= {one.arg: one.value for one in node.keywords}
        x, inplace = given.pop("input", None), given.pop("inplace", None)
        in_place = inplace is not None and not _is_constant(inplace, False)
        if x is None or None in given or in_place or isinstance(x, ast.Starred):
            return None, None
        if not all(self._is_setting(one) for one in given.values()):
            return None, None
        given = {"p": ast.Constant(0.5), "training": ast.Constant(True), **given}
        drop = ast.Dict([ast.Constant(name) for name in given], list(given.values()))
        return ast.copy_location(drop, node), x

    def _is_setting(self, node):
        """Whether an expression is a name, a number, or an attribute such as ``self.p``."""
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, (ast.Name, ast.Constant))

    def activation(self, node):
        """``(activation, x)`` for A(x)."""
        x = argument(node)
        if x is None:
            return None, None
        role = self.code.role(node.func)
        if role == roles.INPLACE_ACTIVATION and not self._is_new(x):
            return None, None
        if role in ACTIVATIONS or is_pure_function(self.code.value(node.func)):
            return node.func, x
        return None, None

    def call(self, node, kinds=_CALLED):
        """``(layer, x)`` for L(x), where L is any module but dropout, an activation or a norm."""
        x = argument(node)
        if x is None:
            return None, None
        is_layer = self.code.role(node.func) in kinds
        is_loop = roles.MODULE in kinds and self.is_loop_variable(node.func)
        return (node.func, x) if is_layer or is_loop else (None, None)

    def halves(self, statement):
        """``(first, second, x)`` for ``first, second = x.chunk(2, dim=-1)``."""
        match statement:
            case ast.Assign(
                [ast.Tuple([ast.Name(first), ast.Name(second)])],
                ast.Call(func, arguments, keywords),
            ):
                if self.code.value(func) is not torch.chunk:
                    if not (isinstance(func, ast.Attribute) and func.attr == "chunk"):
                        return None, None, None
                    arguments = [func.value, *arguments]
                texts = [ast.unparse(one) for one in (*arguments[1:], *keywords)]
                if texts in (["2", "-1"], ["2", "dim=-1"]):
                    return first, second, arguments[0]
        return None, None, None

    def is_loop_variable(self, node):
        return isinstance(node, ast.Name) and node.id in self.code.loop_variables

    def _is_new(self, node):
        """Whether an expression makes a tensor that nothing else refers to."""
        x = argument(node)
        if x is not None and self.code.role(node.func) == roles.INPLACE_ACTIVATION:
            return self._is_new(x)
        is_linear = self.call(node, (roles.LINEAR,))[0] is not None
        return is_linear or self.activation(node)[0] is not None

    def is_variable(self, node):
        return isinstance(node, ast.Name) and node.id in self.code.local

    def is_relu(self, act):
        return self.code.role(act) == roles.RELU or self.code.value(act) in (F.relu, torch.relu)


def argument(node):
    """The argument of a call with one argument; None for other expressions."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        (x,) = node.args
        return None if isinstance(x, ast.Starred) else x
    return None


def _is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value
