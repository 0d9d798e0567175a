"""The syntax tree of a method, and methods made of syntax trees."""

import __future__

import ast
import inspect
import types

from fused_dropout.fusion.syntax import definition_of, names_in

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

_REFUSED = ("locals", "vars", "eval", "exec")  # a variable may be read without its name in the code


def tree_of(method):
    """The ``ast.FunctionDef`` of a method; None if it is not certain or cannot be rewritten.

    It is certain if it compiles to the code that the method has.
    """
    if not inspect.isfunction(method) or hasattr(method, "__wrapped__"):
        return None
    code = method.__code__
    if not code.co_argcount or inspect.iscoroutinefunction(method) or code.co_flags & 0x20:
        return None
    tree = definition_of(method)
    if tree is None or tree.decorator_list:
        return None
    ast.increment_lineno(tree, code.co_firstlineno - tree.lineno)
    nodes = list(ast.walk(tree))
    if any(isinstance(node, (ast.Global, ast.Nonlocal)) for node in nodes):
        return None
    if any(isinstance(node, ast.Name) and node.id in _REFUSED for node in nodes):
        return None
    try:
        compiled = _compiled(tree, method, ())
    except (SyntaxError, ValueError):
        return None
    return tree if _same(compiled, code) else None


def method_from(tree, original, values):
    """A method that runs another syntax tree.

    Args:
        tree: an ``ast.FunctionDef`` with the parameters of the original method.
        original: the method; the new one has its globals, defaults, closure and line numbers.
        values: ``{name: value}`` of names that the new code uses besides.
    """
    code = _compiled(ast.fix_missing_locations(tree), original, tuple(values))
    cells = dict(zip(original.__code__.co_freevars, original.__closure__ or (), strict=True))
    cells |= {name: types.CellType(value) for name, value in values.items()}
    closure = tuple(cells[name] for name in code.co_freevars)
    method = types.FunctionType(
        code, original.__globals__, original.__name__, original.__defaults__, closure
    )
    method.__kwdefaults__ = original.__kwdefaults__
    method.__qualname__, method.__module__ = original.__qualname__, original.__module__
    return method


def _compiled(tree, original, names):
    """The code object of a method. ``names``: free variables besides those of the original."""
    free = (*original.__code__.co_freevars, *names)
    arguments = ast.arguments(
        posonlyargs=[],
        args=[ast.arg(name) for name in free],
        kwonlyargs=[],
        kw_defaults=[],
        defaults=[],
    )
    outer = ast.FunctionDef("outer", arguments, [tree], [], lineno=1, col_offset=0)
    if hasattr(outer, "type_params"):
        outer.type_params = []
    # Python compiles calls of methods in another way if the owner is an imported name.
    imports = [ast.Import([ast.alias(name)]) for name in _imported_names(original)]
    module = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    code = original.__code__
    flags = code.co_flags & _FUTURE
    compiled = compile(module, code.co_filename, "exec", flags, dont_inherit=True)
    (outer,) = _functions_in(compiled)
    return next(one for one in _functions_in(outer) if one.co_name == code.co_name)


def _imported_names(function):
    """The global names in a function that its file seems to import."""
    values = function.__globals__
    return [
        name
        for name in names_in(function.__code__)
        if name in values
        and (
            isinstance(values[name], types.ModuleType)
            or getattr(values[name], "__module__", None) not in (None, values.get("__name__"))
        )
    ]


def _functions_in(code):
    return [one for one in code.co_consts if isinstance(one, types.CodeType)]


def _same(code, other):
    """Whether two code objects run the same instructions on the same names and constants."""
    fields = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars")
    return (
        all(getattr(code, name) == getattr(other, name) for name in fields)
        and len(code.co_consts) == len(other.co_consts)
        and all(map(_same_constants, code.co_consts, other.co_consts))
    )


def _same_constants(one, other):
    if isinstance(one, types.CodeType) and isinstance(other, types.CodeType):
        return _same(one, other)
    return type(one) is type(other) and repr(one) == repr(other)
