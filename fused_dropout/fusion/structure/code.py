"""What the names in a method mean, and which of its expressions may change places."""

import ast
import collections

from fused_dropout.fusion.activations import is_pure_function
from fused_dropout.fusion.structure import roles
from fused_dropout.fusion.structure.roles import first_parameter, path_of

_PURE = (roles.LINEAR, roles.NORM, roles.ACTIVATION, roles.RELU, roles.DROP, roles.DROP_PATH)


class Code:
    """What the names in a method mean.

    Attributes:
        self_name: the name of the first parameter.
        roles: see ``roles.py``.
        global_values: the globals of the method, a function.
        methods: the names of the rewritten methods of the class.
        local: the names of parameters and variables.
        loop_variables: the names that ``for`` statements assign.
        mentions: {name of a variable: how often it is in the code}.
    """

    def __init__(self, tree, roles_of_paths, function, methods):
        self.self_name, self.roles = first_parameter(tree), roles_of_paths
        self.global_values, self.methods = function.__globals__, methods
        nodes = list(ast.walk(tree))
        stored = {
            one.id for one in nodes if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
        }
        code = function.__code__
        self.local = stored.union(code.co_varnames, code.co_cellvars, code.co_freevars)
        self.mentions = collections.Counter(x.id for x in nodes if isinstance(x, ast.Name))
        self.loop_variables = {
            name.id
            for one in nodes
            if isinstance(one, (ast.For, ast.comprehension))
            for name in ast.walk(one.target)
            if isinstance(name, ast.Name)
        }

    def path(self, node):
        return path_of(node, self.self_name)

    def role(self, node):
        """The role of an expression ``self.a.b``, or None."""
        path = self.path(node)
        return None if path is None else self.roles.get(path)

    def value(self, node):
        """The value of a global name, or of an attribute of a global module; else None."""
        if isinstance(node, ast.Name) and node.id not in self.local:
            return self.global_values.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            return vars(owner).get(node.attr) if isinstance(owner, type(ast)) else None
        return None

    def is_fixed(self, node):
        """Whether an expression names an object that is the same whatever runs before."""
        is_known = self.role(node) is not None or self.value(node) is not None
        return is_known or isinstance(node, (ast.Name, ast.Constant))

    def is_pure(self, node):
        """Whether an expression changes nothing, and gives the same as long as nothing changes."""
        match node:
            case ast.Attribute():
                is_self = isinstance(node.value, ast.Name) and node.value.id == self.self_name
                return self.is_fixed(node) or (not is_self and self.is_pure(node.value))
            case ast.BinOp(left, _, right):
                return self.is_pure(left) and self.is_pure(right)
            case ast.UnaryOp(_, operand):
                return self.is_pure(operand)
            case ast.Call(func, [x], []):
                is_pure = self.role(func) in _PURE or is_pure_function(self.value(func))
                return is_pure and self.is_pure(x)
        return self.is_fixed(node)

    def comes_first(self, target, node, moved):
        """Whether nothing is evaluated before a part of an expression that ``moved`` may change.

        ``moved`` is the expression that will be evaluated in the place of the part. False also if
        the part is evaluated only under a condition, or several times.
        """
        return self._comes_first(
            target, node, self.is_pure if self.is_pure(moved) else self.is_fixed
        )

    def _comes_first(self, target, node, may_precede):
        if node is target:
            return True
        if isinstance(node, (ast.Name, ast.Constant)):
            return False
        match node:
            case ast.Call():
                parts = [node.func, *node.args, *(one.value for one in node.keywords)]
            case ast.BinOp():
                parts = [node.left, node.right]
            case ast.Compare():
                parts = [node.left, *node.comparators[:1]]
            case ast.Subscript():
                parts = [node.value, node.slice]
            case ast.Tuple() | ast.List():
                parts = node.elts
            case ast.Attribute() | ast.Starred():
                parts = [node.value]
            case ast.UnaryOp():
                parts = [node.operand]
            case ast.IfExp():
                parts = [node.test]
            case _:
                return False
        for part in parts:
            if any(one is target for one in ast.walk(part)):
                return self._comes_first(target, part, may_precede)
            if not may_precede(part):
                return False
        return False
