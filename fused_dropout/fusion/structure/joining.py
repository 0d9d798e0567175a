"""Joins statements: ``h = f(x)`` and ``y = g(h)`` become ``y = g(f(x))``.

Two neighbouring statements are joined if the second one reads the variable once, nothing reads it
afterwards, and the joined statement does the same in the same order, but for pure functions.
"""

import ast
import collections

from fused_dropout.fusion.activations import is_pure_function
from fused_dropout.fusion.structure import roles
from fused_dropout.fusion.structure.roles import first_parameter, path_of

#: Statements after which code goes on although an exception was raised.
TRY = (ast.Try, *([ast.TryStar] if hasattr(ast, "TryStar") else []))

_JUMPS = (ast.Break, ast.Continue)
_PURE = (roles.LINEAR, roles.NORM, roles.ACTIVATION, roles.RELU, roles.DROP, roles.DROP_PATH)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def join_statements(tree, code):
    """Joins the statements of a function, in place. ``code``: a :class:`Code`."""
    tree.body = _Joining(tree, code).block(tree.body, [])


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
        stored = {one.id for one in nodes if _is_name(one, ast.Store)}
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


def _is_name(node, context):
    return isinstance(node, ast.Name) and isinstance(node.ctx, context)


def _uses(node, name):
    """The places where a node reads or deletes a variable."""
    changed = {one.target for one in ast.walk(node) if isinstance(one, ast.AugAssign)}  # `h += x`
    return [
        one
        for one in ast.walk(node)
        if isinstance(one, ast.Name)
        and one.id == name
        and (one in changed or not isinstance(one.ctx, ast.Store))
    ]


def assigned_name(statement):
    """The variable of a statement ``name = value``; None for other statements."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        (target,) = statement.targets
        return target.id if isinstance(target, ast.Name) else None
    return None


class _Joining:
    def __init__(self, tree, code):
        self.code = code
        self.captured = {
            name.id
            for scope in ast.walk(tree)
            if isinstance(scope, _SCOPES) and scope is not tree
            for name in ast.walk(scope)
            if isinstance(name, ast.Name)
        }

    def block(self, statements, after):
        """Joins a list of statements.

        Args:
            after: the statements that run after the list; None if that is not known.
        """
        done = []
        for index, statement in enumerate(statements):
            rest = statements[index + 1 :]
            following = None if after is None else [*rest, *after]
            statement = _simplified(statement)
            if isinstance(statement, (ast.If, ast.With)):
                self._nested(statement, following)
            elif isinstance(statement, (ast.For, ast.While)):
                self._nested(statement, None)
            while done and (joined := self._joined(done[-1], statement, rest, after)) is not None:
                statement = joined
                done.pop()
            done.append(statement)
        return done

    def _nested(self, statement, after):
        for field in ("body", "orelse"):
            inner = getattr(statement, field, [])
            setattr(statement, field, self.block(inner, after))

    def _joined(self, first, second, rest, after):
        """One statement for two; None if they cannot be joined."""
        name = assigned_name(first)
        if name is None or name in self.captured:
            return None
        if not isinstance(second, (ast.Assign, ast.Return)) or second.value is None:
            return None
        uses = _uses(second, name)
        if len(uses) != 1 or not isinstance(uses[0].ctx, ast.Load):
            return None
        (use,) = uses
        if not self.code.comes_first(use, second.value, first.value):
            return None
        if not self._is_dead(name, second, rest, after):
            return None
        second.value = replaced(second.value, use, first.value)
        return second

    def _is_dead(self, name, statement, rest, after):
        """Whether nothing reads a variable after a statement."""
        if isinstance(statement, ast.Return) or _always_stores(statement, name):
            return True
        for one in rest:
            if _uses(one, name) or any(isinstance(x, _JUMPS) for x in ast.walk(one)):
                return False
            if isinstance(one, ast.Return) or _always_stores(one, name):
                return True
        return after is not None and not any(_uses(one, name) for one in after)


def _simplified(statement):
    if (
        isinstance(statement, ast.AnnAssign)
        and statement.value is not None
        and isinstance(statement.target, ast.Name)
    ):
        plain = ast.Assign([statement.target], statement.value)
        return ast.copy_location(plain, statement)
    return statement


def _always_stores(statement, name):
    return isinstance(statement, ast.Assign) and any(
        _is_name(one, ast.Store) and one.id == name
        for target in statement.targets
        for one in ast.walk(target)
    )


class _Replace(ast.NodeTransformer):
    def __init__(self, old, new):
        self.old, self.new = old, new

    def visit(self, node):
        return self.new if node is self.old else super().visit(node)


def replaced(node, old, new):
    """A node in which a part is replaced."""
    return _Replace(old, new).visit(node)
