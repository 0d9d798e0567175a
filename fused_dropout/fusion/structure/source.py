"""The syntax tree of a method, and methods made of syntax trees."""

import __future__

import ast
import dis
import inspect
import types

from fused_dropout.fusion.syntax import definition_of

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag

_GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_REFUSED = ("locals", "vars", "eval", "exec")  # a variable may be read without its name in the code


def tree_of(method):
    """The ``ast.FunctionDef`` of a method; None if it is not certain or cannot be rewritten.

    It is certain if it compiles to the code that the method has. Decorators are left out.
    """
    if _wrappers(method) is None:
        return None
    function = inspect.unwrap(method)
    code = function.__code__
    if not code.co_argcount or code.co_flags & _GENERATORS:
        return None
    tree = definition_of(function)
    if tree is None:
        return None
    ast.increment_lineno(tree, code.co_firstlineno - 1)
    tree.decorator_list = []
    nodes = list(ast.walk(tree))
    if any(isinstance(node, (ast.Global, ast.Nonlocal, ast.NamedExpr)) for node in nodes):
        return None
    if any(isinstance(node, ast.Name) and node.id in _REFUSED for node in nodes):
        return None
    try:
        compiled = _compiled(tree, function, ())
    except (SyntaxError, ValueError):
        return None
    return tree if _same(compiled, code) else None


def _wrappers(method):
    """The functions that decorators put around a method; None if one hides what it calls.

    Each has to be a function that finds the next one in a variable.
    """
    found = []
    while isinstance(method, types.FunctionType):
        if not hasattr(method, "__wrapped__"):
            return found
        if not any(cell is not None for cell in _cells_with(method, method.__wrapped__)):
            return None
        found.append(method)
        method = method.__wrapped__
    return None


def _cells_with(function, value):
    """The cells of a function that contain a value; None in the place of the others."""
    cells = function.__closure__ or ()
    return [cell if _content(cell) is value else None for cell in cells]


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None


def method_from(tree, original, values):
    """A method that runs another syntax tree.

    Args:
        tree: an ``ast.FunctionDef`` with the parameters of the original method.
        original: the method; the new one has its globals, defaults, closure and line numbers, and
            the same decorators around it.
        values: ``{name: value}`` of names that the new code uses besides.
    """
    function = inspect.unwrap(original)
    code = _compiled(ast.fix_missing_locations(tree), function, tuple(values))
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    cells |= {name: types.CellType(value) for name, value in values.items()}
    new = _copied(function, code, tuple(cells[name] for name in code.co_freevars))
    for wrapper in reversed(_wrappers(original)):
        inner = _cells_with(wrapper, wrapper.__wrapped__)
        closure = tuple(
            cell if found is None else types.CellType(new)
            for cell, found in zip(wrapper.__closure__, inner, strict=True)
        )
        wrapped, new = new, _copied(wrapper, wrapper.__code__, closure)
        new.__wrapped__ = wrapped
    return new


def _copied(function, code, closure):
    new = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    for name in ("__kwdefaults__", "__qualname__", "__module__", "__doc__"):
        setattr(new, name, getattr(function, name))
    vars(new).update(vars(function))
    return new


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
    module = ast.fix_missing_locations(ast.Module([outer], []))
    code = original.__code__
    flags = code.co_flags & _FUTURE
    compiled = compile(module, code.co_filename, "exec", flags, dont_inherit=True)
    (outer,) = _functions_in(compiled)
    return next(one for one in _functions_in(outer) if one.co_name == tree.name)


def _functions_in(code):
    return [one for one in code.co_consts if isinstance(one, types.CodeType)]


def _same(code, other):
    """Whether two code objects run the same instructions on the same names and constants."""
    return (
        code.co_varnames == other.co_varnames
        and _instructions(code) == _instructions(other)
        and all(map(_same, _functions_in(code), _functions_in(other)))
    )


def _instructions(code):
    """What a code object does. Where it jumps is left out: that follows from the source."""
    return [
        (_SAME_OPERATIONS.get(one.opname, one.opname), _argument(one))
        for one in dis.get_instructions(code)
        if one.opname not in ("PUSH_NULL", "EXTENDED_ARG")
    ]


# Python calls a function of a module in another way than a method if the import of the module is in
# the same file, or in the same cell of a notebook.
_SAME_OPERATIONS = {"LOAD_METHOD": "LOAD_ATTR", "CALL_METHOD": "CALL_FUNCTION"}


def _argument(instruction):
    is_code = isinstance(instruction.argval, types.CodeType)
    if is_code or instruction.opcode in (*dis.hasjrel, *dis.hasjabs):
        return None
    # Python 3.10 has the full names of inner functions among the constants.
    return repr(instruction.argval).rpartition("<locals>.")[2]
