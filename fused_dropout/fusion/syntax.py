"""The syntax tree of a function, without what does not matter for the result of a call.

Two functions with the same canonical tree compute the same, if the names that they look up outside
of themselves mean the same. Names of torch are replaced by full names for that reason.
"""

import ast
import inspect
from types import ModuleType

import torch
import torch.nn.functional as F


def definition_of(function):
    """The syntax tree of a function, an ``ast.FunctionDef``; None if it cannot be read.

    The first line of its source, which may be a decorator, is line 1.
    """
    try:
        source = inspect.getsource(inspect.unwrap(function))
        if source[0].isspace():  # not dedented: that would change strings of several lines
            (block,) = ast.parse(f"if True:\n{source}").body
            (definition,) = block.body
            ast.increment_lineno(definition, -1)
        else:
            (definition,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError, IndexError):
        return None
    return definition if isinstance(definition, ast.FunctionDef) else None


def torch_names(function):
    """``{name: full name}`` for the global names in a function that mean something of torch."""
    function = inspect.unwrap(function)
    values = function.__globals__
    found = ((name, _full_name(values.get(name))) for name in _names_in(function.__code__))
    return {name: full for name, full in found if full is not None}


def _names_in(code):
    nested = (_names_in(one) for one in code.co_consts if isinstance(one, type(code)))
    return set(code.co_names).union(*nested)


_TORCH_MODULES = ("torch", "torch.nn", "torch.nn.functional")


def _full_name(value):
    if isinstance(value, ModuleType):
        name = value.__name__
        return name if name == "torch" or name.startswith("torch.") else None
    name = getattr(value, "__name__", None)
    if isinstance(name, str) and callable(value):
        for module in (F, torch, torch.nn):
            if getattr(module, name, None) is value:
                return f"{module.__name__}.{name}"
    return None


def imported_torch_names(module):
    """As :func:`torch_names`, from the import statements of a file that is not imported.

    Args:
        module: the syntax tree of the file, an ``ast.Module``.
    """
    names = {}
    for node in module.body:
        if isinstance(node, ast.Import):
            for one in node.names:
                if one.name.partition(".")[0] == "torch":
                    names[one.asname or "torch"] = one.name if one.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and node.module in _TORCH_MODULES and not node.level:
            for one in node.names:
                names[one.asname or one.name] = f"{node.module}.{one.name}"
    return names


def canonical(definition, names):
    """The canonical tree of a function: ``(arguments, list of statements)``.

    - Docstrings and annotations are removed, and keyword arguments of calls are sorted.
    - Local variables, ``*args`` and ``**kwargs`` are numbered in the order in which they appear.
      The other parameters are part of the interface and keep their names.
    - The names of torch are full names.

    Args:
        definition: an ``ast.FunctionDef``; it is changed.
        names: the result of :func:`torch_names`.
    """
    change = _Canonical(definition, names)
    arguments = change.visit(definition.args)
    body = [change.visit(statement) for statement in definition.body]
    return arguments, [statement for statement in body if statement is not None]


class _Canonical(ast.NodeTransformer):
    def __init__(self, definition, names):
        parameters = _parameters(definition.args)
        assigned, not_local = _assigned_names(definition.body)
        extra = {one.arg for one in (definition.args.vararg, definition.args.kwarg) if one}
        self.renamed = (assigned - parameters - not_local) | extra
        self.numbers = {}
        bound = parameters | _bound_anywhere(definition)
        self.full_names = {name: full for name, full in names.items() if name not in bound}

    def _rename(self, name):
        if name not in self.renamed:
            return name
        return f"local {self.numbers.setdefault(name, len(self.numbers))}"

    def visit_Name(self, node):
        node.id = self.full_names.get(node.id) or self._rename(node.id)
        return node

    def visit_Attribute(self, node):
        self.generic_visit(node)
        # `nn.functional.dropout` becomes the same name as `F.dropout`.
        if isinstance(node.value, ast.Name) and node.value.id.partition(".")[0] == "torch":
            return ast.Name(f"{node.value.id}.{node.attr}", node.ctx)
        return node

    def visit_arg(self, node):
        node.arg, node.annotation = self._rename(node.arg), None
        return node

    def visit_AnnAssign(self, node):
        if node.value is None:
            return None
        return self.visit(ast.Assign([node.target], node.value))

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant):  # a docstring, or an ellipsis
            return None
        return self.generic_visit(node)

    def visit_Call(self, node):
        node.keywords.sort(key=lambda one: (one.arg is None, one.arg))
        return self.generic_visit(node)

    def visit_ExceptHandler(self, node):
        node.name = self._rename(node.name)
        return self.generic_visit(node)


def _parameters(arguments):
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return {one.arg for one in every}


def _bound_anywhere(definition):
    nodes = list(ast.walk(definition))
    stored = {x.id for x in nodes if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)}
    return stored | {x.arg for x in nodes if isinstance(x, ast.arg)}


_SCOPES = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)


def _assigned_names(body):
    """The names that the statements of a function assign, and the names that are not renamed.

    Those are the names of imports, of nested functions and classes, and of ``global`` statements.
    """
    assigned, kept = set(), set()
    nodes = list(body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            assigned.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            assigned.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            kept.update((one.asname or one.name).partition(".")[0] for one in node.names)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            kept.update(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            kept.add(node.name)
        if not isinstance(node, _SCOPES):
            nodes += ast.iter_child_nodes(node)
    return assigned, kept
