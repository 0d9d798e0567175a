"""Joins statements: ``h = f(x)`` and ``y = g(h)`` become ``y = g(f(x))``.

Two neighbouring statements are joined if the second one reads the variable once, nothing reads it
afterwards, and the joined statement does the same in the same order, but for pure functions.
"""

import ast

#: Statements after which code goes on although an exception was raised.
TRY = (ast.Try, *([ast.TryStar] if hasattr(ast, "TryStar") else []))

_JUMPS = (ast.Break, ast.Continue)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def join_statements(tree, code):
    """Joins the statements of a function, in place. ``code``: a
    :class:`~.code.Code`."""
    tree.body = _Joining(tree, code).block(tree.body, [])


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
