"""Replaces expressions by calls of the functions in ``kernel_calls.py``.

The letters in docstrings: D is dropout, A an activation, L a linear layer, N a norm, r a residual.
"""

import ast
from typing import NamedTuple

from fused_dropout.fusion.structure import roles
from fused_dropout.fusion.structure.joining import TRY, assigned_name, replaced
from fused_dropout.fusion.structure.shapes import ACTIVATIONS, Shapes, argument

#: The name of ``kernel_calls.py`` in new code.
CALLS = "_fused_dropout_calls"

#: Prefixes of the rewritten methods that other methods call: as they are, and without the dropout
#: at their end.
REWRITTEN, OPENED = "_fused_dropout_run_", "_fused_dropout_open_"

# Their code is not rewritten: definitions, and statements that go on after an exception.
_LEFT = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, *TRY)
_TOLD = (roles.LINEAR, roles.MODULE, roles.NORM, *ACTIVATIONS)


class _Branch(NamedTuple):
    """A branch of a residual block.

    Attributes:
        arguments: of ``add``, those before the residual.
        keywords: keyword arguments of ``add``.
        words: what it ends with, for the report.
    """

    arguments: list
    keywords: list
    words: list


class Rewriter:
    """Rewrites one function.

    Attributes:
        drops: paths of the dropout layers that a kernel computes with what is beside them.
        lines: the lines of such calls of ``F.dropout``.
        texts: what runs in kernels, for the report.
        children: {path: role} of the linear layers, activations and norms in these.
    """

    def __init__(self, code):
        self.code, self.shapes = code, Shapes(code)
        self.drops, self.lines, self.texts, self.children = {}, {}, {}, {}
        self._calls_methods = False
        self._temporaries = 0

    @property
    def has_changed(self):
        """Whether anything was rewritten that has to do with dropout or a residual."""
        return bool(self.drops or self.lines or self.texts or self._calls_methods)

    def block(self, statements):
        """Rewrites a list of statements."""
        statements = list(statements)
        result = []
        for index, statement in enumerate(statements):
            rest = statements[index + 1 :]
            if not self._gate_later(statement, rest):
                result.append(self._norm_later(statement, rest) or statement)
        return [self.statement(one) for one in result]

    def statement(self, statement):
        if isinstance(statement, _LEFT):
            return statement
        for field, value in ast.iter_fields(statement):
            if isinstance(value, ast.expr) and field not in ("target", "targets"):
                setattr(statement, field, self.expression(value))
            elif field in ("body", "orelse"):
                setattr(statement, field, self.block(value))
        return statement

    def expression(self, node):
        """The expression that takes the place of another."""
        new = (
            self._norm_of_sum(node)
            or self._sum(node)
            or self._dropout(node)
            or self._linear_activation(node)
            or self._method(node, REWRITTEN)
        )
        if new is not None:
            return new
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, field, self.expression(value))
            elif isinstance(value, list):
                values = [self._part(one) for one in value]
                setattr(node, field, values)
        return node

    def _part(self, node):
        if isinstance(node, ast.expr):
            return self.expression(node)
        if isinstance(node, ast.keyword):
            node.value = self.expression(node.value)
        elif isinstance(node, ast.comprehension):
            node.iter = self.expression(node.iter)
            node.ifs = [self.expression(one) for one in node.ifs]
        return node

    def end(self, node):
        """``(output, bias, dropout)`` for an expression that ends with dropout; None for others.

        The values are those of ``open_forward``, see ``branches.py``.
        """
        child = self._child_branch(node)
        if child is not None:
            return child
        drop, x = self.shapes.dropout(node)
        if drop is None:
            return None
        linear, inner = self.shapes.call(x)
        if linear is not None:
            self._use(drop)
            return self._call("linear_branch", linear, drop, self.expression(inner))
        if self.shapes.activation(x)[0] is not None:
            return None
        self._use(drop)
        return ast.Tuple([self.expression(x), ast.Constant(None), drop], ast.Load())

    def _child_branch(self, node):
        """A call of a child that ends with dropout."""
        if not isinstance(node, ast.Call):
            return None
        method = self._method(node.func, OPENED)
        if method is not None:
            node.func = method
            node.args = [self._part(one) for one in node.args]
            node.keywords = [self._part(one) for one in node.keywords]
            return node
        is_branch = self.code.role(node.func) == roles.BRANCH
        if not is_branch and not (
            self.shapes.is_loop_variable(node.func) and roles.BRANCH in self.code.roles.values()
        ):
            return None
        arguments = [self._part(one) for one in node.args]
        keywords = [self._part(one) for one in node.keywords]
        return self._call("branch_of", node.func, *arguments, keywords=keywords)

    def _branch(self, node):
        """A :class:`_Branch`; None if nothing is dropped."""
        words, keywords, inner = [], [], node
        if self.code.role(getattr(node, "func", None)) == roles.DROP_PATH:
            inner = argument(node)
            if inner is None:
                return None
            self._use(node.func)
            words, keywords = ["stochastic depth"], [ast.keyword("drop_path", node.func)]
        end = self._child_branch(inner)
        if end is not None:
            return _Branch([ast.Starred(end, ast.Load())], keywords, ["end of a branch", *words])
        drop, x = self.shapes.dropout(inner)
        if drop is None:
            return self._as_it_is(inner, keywords, words) if keywords else None
        self._use(drop)
        linear, linear_x = self.shapes.call(x)
        if linear is None:
            arguments = [self.expression(x), ast.Constant(None), drop]
            return _Branch(arguments, keywords, ["dropout", *words])
        end = self._call("linear_branch", linear, drop, self.expression(linear_x))
        return _Branch([ast.Starred(end, ast.Load())], keywords, ["bias", "dropout", *words])

    def _as_it_is(self, node, keywords=(), words=()):
        arguments = [self.expression(node), ast.Constant(None), ast.Constant(None)]
        return _Branch(arguments, list(keywords), list(words))

    def _split_sum(self, node, weak=False):
        """``(branch, residual)`` for r + branch, a :class:`_Branch` and an expression.

        With ``weak`` also for a branch without dropout.
        """
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
            return None
        # A variable is the same object after the branch was computed; other residuals may not be.
        sides = (node.right, node.left), (node.left, node.right)
        for branch, residual in sides:
            if self.shapes.is_variable(residual):
                found = self._branch(branch)
                if found is not None:
                    return found, residual
        for branch, residual in sides if weak else ():
            if self.shapes.is_variable(residual):
                return self._as_it_is(branch), residual
        return None

    # The shapes.

    def _norm_of_sum(self, node):
        """N(r + ...)."""
        x = argument(node)
        if x is None or self.code.role(node.func) != roles.NORM:
            return None
        return self._add("add_norm", self._split_sum(x, weak=True), node, node.func)

    def _sum(self, node):
        """r + D(...), or r plus a child that ends with dropout."""
        is_left = isinstance(node, ast.BinOp) and not self.shapes.is_variable(node.left)
        parts = self._split_sum(node)
        if parts is not None and is_left:
            parts[0].keywords.append(ast.keyword("branch_first", ast.Constant(True)))
        return self._add("add", parts, node)

    def _add(self, function, parts, like, norm=None):
        if parts is None:
            return None
        branch, residual = parts
        words, norms = [*branch.words, "residual"], []
        if norm is not None:
            words, norms = [*words, "norm"], [norm]
        self._tell(*words)
        return self._call(
            function, *branch.arguments, residual, *norms, keywords=branch.keywords, like=like
        )

    def _dropout(self, node):
        """D(A(L(x))), D(A(x)), D(L(x)), D(A(L(x)) * L(x))."""
        drop, x = self.shapes.dropout(node)
        if drop is None:
            return None
        act, inner = self.shapes.activation(x)
        linear, linear_x = self.shapes.call(x if act is None else inner)
        if act is not None and linear is None:
            words = ("activation", "dropout")
            new = ("bias_act_drop", self.expression(inner), ast.Constant(None), act, drop)
        elif act is not None:
            words = ("bias", "activation", "dropout")
            new = ("linear_act_drop", linear, act, drop, self.expression(linear_x))
        elif linear is not None and self.code.role(linear) == roles.LINEAR:
            words = ("bias", "dropout")
            new = ("linear_drop", linear, drop, self.expression(linear_x))
        else:
            return self._gate(drop, x, node)
        self._use(drop)
        self._tell(*words)
        return self._call(*new, like=node)

    def _gate(self, drop, product, node):
        if not (isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult)):
            return None
        for gated, other in ((product.left, product.right), (product.right, product.left)):
            act, inner = self.shapes.activation(gated)
            gate, x = (None, None) if act is None else self.shapes.call(inner)
            value, value_x = self.shapes.call(other)
            if gate is None or value is None or not self.shapes.is_variable(x):
                continue
            if ast.dump(x) == ast.dump(value_x):
                self._use(drop)
                self._tell("gate", "dropout")
                gate_first = ast.Constant(gated is product.left)
                arguments = gate, value, act, drop, x, gate_first
                return self._call("two_linears_glu_drop", *arguments, like=node)
        return None

    def _linear_activation(self, node):
        """A(L(x)) without dropout: the bias is added by the kernel of the activation."""
        act, inner = self.shapes.activation(node)
        if act is not None and self.shapes.is_relu(act):
            return None
        linear, x = (None, None) if act is None else self.shapes.call(inner, (roles.LINEAR,))
        if linear is None:
            return None
        arguments = (linear, act, ast.Constant(None), self.expression(x))
        self._tell("bias", "activation")
        return self._call("linear_act_drop", *arguments, like=node)

    def _gate_later(self, statement, rest):
        """For ``a, b = x.chunk(2, dim=-1)`` with D(A(a) * b) in the next statement: one call.

        Returns whether the statement is not needed any more.
        """
        first, second, x = self.shapes.halves(statement)
        if x is None or not rest or not isinstance(rest[0], (ast.Assign, ast.Return)):
            return False
        if {self.code.mentions[first], self.code.mentions[second]} != {2}:
            return False
        later = rest[0]
        for node in ast.walk(later.value) if later.value is not None else ():
            drop, product = self.shapes.dropout(node)
            act, gated = self._gate_of(product, {first, second})
            if act is None or not self.code.comes_first(node, later.value, x):
                continue
            linear, linear_x = self.shapes.call(x, (roles.LINEAR,))
            if linear is None:
                parts = [self.expression(x), ast.Constant(None)]
            else:
                output = self._call("linear_output_of_last_dim", linear, self.expression(linear_x))
                parts = [ast.Starred(output, ast.Load())]
            self._use(drop)
            self._tell(*(["bias"] if linear is not None else []), "gate", "dropout")
            gate_first = ast.Constant(gated == first)
            new = self._call("halves_glu_drop", *parts, act, drop, gate_first, like=node)
            later.value = replaced(later.value, node, new)
            return True
        return False

    def _gate_of(self, product, names):
        """``(activation, name of the gate)`` for A(a) * b, where the names are a and b."""
        if not (isinstance(product, ast.BinOp) and isinstance(product.op, ast.Mult)):
            return None, None
        for gated, other in ((product.left, product.right), (product.right, product.left)):
            act, gate = self.shapes.activation(gated)
            if act is not None and _is_name_in(gate, names) and _is_name_in(other, names):
                return act, gate.id
        return None, None

    def _norm_later(self, statement, rest):
        """For ``h = r + ...`` with N(h) in the next statement: one call for both.

        ``n, h = add_then_norm(...)`` takes the place of the statement, and ``n`` that of N(h).
        """
        name = assigned_name(statement)
        if name is None:
            return None
        names = {name}
        while rest and assigned_name(rest[0]) and _is_name_in(rest[0].value, names):
            names.add(assigned_name(rest[0]))
            rest = rest[1:]
        if not rest or not isinstance(rest[0], (ast.Assign, ast.Return, ast.Expr)):
            return None
        later = rest[0]
        norm = self._first_norm(later.value, names) if later.value is not None else None
        if norm is None:
            return None
        call = self._add(
            "add_then_norm", self._split_sum(statement.value, weak=True), statement, norm.func
        )
        if call is None:
            return None
        self._temporaries += 1
        temporary = f"_fused_dropout_{self._temporaries}"
        both = [ast.Name(temporary, ast.Store()), *statement.targets]
        later.value = replaced(
            later.value, norm, ast.copy_location(ast.Name(temporary, ast.Load()), norm)
        )
        return ast.copy_location(ast.Assign([ast.Tuple(both, ast.Store())], call), statement)

    def _first_norm(self, node, names):
        """The call N(h) in an expression, for h in ``names``, if it is evaluated first."""
        for one in ast.walk(node):
            x = argument(one)
            if (
                x is not None
                and self.code.role(one.func) == roles.NORM
                and _is_name_in(x, names)
                and self.code.comes_first(one, node, one)
            ):
                return one
        return None

    def _method(self, node, prefix):
        """The rewritten method for an expression ``self.method``."""
        name = self.code.path(node)
        if name is None or prefix + name not in self.code.methods:
            return None
        self._calls_methods = True
        return ast.copy_location(ast.Attribute(node.value, prefix + name, ast.Load()), node)

    def _tell(self, *words):
        *first, last = words
        self.texts[f"{', '.join(first)} and {last}" if first else last] = None

    def _use(self, drop):
        path = self.code.path(drop)
        if path is not None:
            self.drops[path] = None
        else:
            self.lines[drop.lineno] = None

    def _call(self, name, *arguments, keywords=(), like=None):
        for path in filter(None, map(self.code.path, arguments)):
            role = self.code.roles.get(path)
            if role in _TOLD:
                self.children[path] = role
        function = ast.Attribute(ast.Name(CALLS, ast.Load()), name, ast.Load())
        node = ast.Call(function, list(arguments), list(keywords))
        return node if like is None else _at(node, like)


def _at(node, like):
    """Gives the position of a node to the parts of another that have none."""
    for one in ast.walk(node):
        if isinstance(one, (ast.expr, ast.stmt)) and not hasattr(one, "lineno"):
            ast.copy_location(one, like)
    return node


def _is_name_in(node, names):
    return isinstance(node, ast.Name) and node.id in names
