"""Redirected functions: the same code, in which calls of torch's dropout go to stand-ins.

``redirected(function)`` has the code of ``function`` with other global names. In

    def forward(self, x):
        return F.dropout(self.fc(x), self.p, self.training)

the name ``F`` becomes ``_fused_dropout_F``, a stand-in for ``torch.nn.functional`` in which
``dropout`` is the function of ``functional_dropout.py`` and everything else is torch's. The
stand-in is a new name in the globals of ``forward``; no name that exists changes its value.
Everything else of a redirected function is that of the original: the globals, which stay live,
defaults, closure, signature, source lines. So debuggers and tracebacks show the original lines, and
``torch.compile`` traces it as it does the original.

Functions that the code calls by name are followed, as are functions that a decorator wraps. Methods
are found by :mod:`~.class_swap` in the class of a module. Dropout functions that are reached in
another way, such as an attribute of an instance or an import inside of the function, stay.
"""

import dis
import functools
import sys
import threading
import types
from typing import NamedTuple

from torch import nn
from torch.nn import functional as F

from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.functional_dropout import STAND_INS, function_name

PREFIX = "_fused_dropout_"

# The body of torch's function calls dropout by name, so it is redirected itself.
_FOLLOWED_IN_TORCH = (F.multi_head_attention_forward,)
_NOT_FOLLOWED = ("torch", "fused_dropout")

_REDIRECTED = {}  # function: its redirected function
_MODULES = {}  # module: its stand-in
_LOCK = threading.RLock()


class Reference(NamedTuple):
    """A name in code that leads to a value: ``root.path[0].path[1]...``.

    Attributes:
        root: a global name or, if ``is_free``, a variable of an enclosing function.
        path: the attributes that are read from it.
        line: line number in the file.
        is_free: see ``root``.
    """

    root: str
    path: tuple
    line: int
    is_free: bool


def redirected(function):
    """The redirected function; ``function`` itself if no torch dropout is reached from it.

    Also ``function`` itself if its code has too many names for another one.
    """
    with _LOCK:
        if not _reaches_dropout(function, {}):
            return function
        before = set(_REDIRECTED)
        try:
            return _redirected(function)
        except _TooManyNames:
            for one in _REDIRECTED.keys() - before:  # they may call what could not be redirected
                del _REDIRECTED[one]
            return function


class _TooManyNames(Exception):
    pass


def dropout_calls(function):
    """The dropout functions of torch that the code of a function names, with line numbers.

    Returns:
        list of ``(name, file, line)``, those in functions that it calls included.
    """
    found, seen, todo = [], set(), [function]
    while todo:
        function = todo.pop()
        if function in seen or not _may_reach_dropout(function):
            continue
        seen.add(function)
        for reference, value in _targets(function):
            if _is_dropout(value):
                place = function.__code__.co_filename, reference.line
                found.append((function_name(value), *place))
            else:
                todo.append(value)
    return found


def functions_of(cls):
    """The methods of a class and its base classes, but for ``__init__`` and ``nn.Module``'s own."""
    for one in cls.__mro__:
        if is_searched(one):
            for name, member in vars(one).items():
                function = getattr(member, "__func__", member)
                if name != "__init__" and isinstance(function, types.FunctionType):
                    yield function


def is_searched(cls):
    """Whether the methods that a class itself defines are searched for calls of dropout."""
    package = top_level_package(cls.__module__ or "")
    return cls is not nn.Module and cls is not object and package != "fused_dropout"


def _is_dropout(value):
    return isinstance(value, (types.FunctionType, types.BuiltinFunctionType)) and value in STAND_INS


def _is_followed(value):
    return isinstance(value, types.FunctionType) and (
        top_level_package(value.__module__ or "") not in _NOT_FOLLOWED
        or value in _FOLLOWED_IN_TORCH
    )


def _reaches_dropout(function, known):
    """Whether the code of a function, or of one that it calls by name, names a dropout function.

    Args:
        known: results for other functions, which is added to.
    """
    if function not in known:
        known[function] = _may_reach_dropout(function) and any(
            _is_dropout(value)
            for one in _reached(function, lambda one: [value for _, value in _targets(one)])
            for _, value in _targets(one)
        )
    return known[function]


def _reached(function, called_by):
    """A function and all functions that it calls, directly or not."""
    todo, seen = [function], set()
    while todo:
        one = todo.pop()
        if one not in seen and isinstance(one, types.FunctionType):
            seen.add(one)
            yield one
            todo += called_by(one)


def _targets(function):
    """``(reference, value)`` of all dropout functions and followed functions in the code."""
    if any(_named_values(function)):
        for reference in references(function.__code__):
            for _, _, value in _steps(function, reference):
                if _is_dropout(value) or _is_followed(value):
                    yield reference, value


@functools.cache
def _may_reach_dropout(function):
    """As :func:`_reaches_dropout`, much faster, and sometimes True where the answer is False.

    It takes every name in the code for a global name and for an attribute of every module.
    """
    return any(
        _is_dropout(value)
        for one in _reached(function, lambda one: filter(_is_followed, _named_values(one)))
        for value in _named_values(one)
    )


def _named_values(function):
    """The dropout functions and followed functions that the names in the code may lead to."""
    names, variables = _names(function.__code__)
    roots = [function.__globals__.get(name) for name in names]
    roots += [_cell_content(function, name) for name in variables]
    for value in roots:
        if isinstance(value, types.ModuleType):
            todo, seen = [value], set()
            while todo:
                members = vars(todo.pop())
                for name in names & members.keys():
                    member = members[name]
                    if isinstance(member, types.ModuleType):
                        if member not in seen:
                            seen.add(member)
                            todo.append(member)
                    elif _is_dropout(member) or _is_followed(member):
                        yield member
        elif _is_dropout(value) or _is_followed(value):
            yield value


@functools.cache
def _names(code):
    """The names in a code object and the code inside of it: attributes and globals; free names."""
    names, variables = set(code.co_names), set(code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for one, more in zip((names, variables), _names(constant), strict=True):
                one |= more
    return names, variables


def _steps(function, reference):
    """Follows a reference: ``(holder, name, value)``, where value is ``holder.name``.

    The first holder is None. The path is followed through modules only.
    """
    value = _root_value(function, reference)
    yield None, reference.root, value
    for name in reference.path:
        if not isinstance(value, types.ModuleType) or name not in vars(value):
            return
        holder, value = value, vars(value)[name]
        yield holder, name, value


def _root_value(function, reference):
    if not reference.is_free:
        return function.__globals__.get(reference.root)
    return _cell_content(function, reference.root)


def _cell_content(function, name):
    names = function.__code__.co_freevars
    if name not in names:  # a variable of the function itself, for a function inside of it
        return None
    try:
        return function.__closure__[names.index(name)].cell_contents
    except ValueError:  # the variable has no value yet
        return None


@functools.cache
def references(code):
    """All references in a code object and the code objects inside of it."""
    found, root, path = [], None, ()
    line = code.co_firstlineno

    def end():
        if root is not None:
            found.append(Reference(root.argval, path, line, root.opname != "LOAD_GLOBAL"))

    for instruction in dis.get_instructions(code):
        if instruction.opname == "EXTENDED_ARG":
            continue
        if root is not None and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            path += (instruction.argval,)
            continue
        end()
        root, path = None, ()
        line = _line_of(instruction, line)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
            root = instruction
    end()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += references(constant)
    return tuple(found)


def _line_of(instruction, line):
    if sys.version_info >= (3, 11):
        return instruction.positions.lineno or line
    return instruction.starts_line or line


def _redirected(function):
    """The redirected function of one that reaches a dropout function."""
    if function in _REDIRECTED:
        return _REDIRECTED[function]
    names, cells = {}, {}
    known = {function: True}
    for reference, value in _targets(function):
        if _is_dropout(value) or _reaches_dropout(value, known):
            (cells if reference.is_free else names)[reference.root] = None
    new = _with_names(function, names.keys(), cells)
    _REDIRECTED[function] = new  # before the functions that it calls, which may call it
    for reference, value in _targets(function):
        if not (_is_dropout(value) or _reaches_dropout(value, known)):
            continue
        replacement = STAND_INS[value] if _is_dropout(value) else _redirected(value)
        steps = list(_steps(function, reference))
        last = next(index for index, step in enumerate(steps) if step[2] is value)
        for holder, name, _ in reversed(steps[1 : last + 1]):
            stand_in = _module_stand_in(holder)
            vars(stand_in)[name] = replacement
            replacement = stand_in
        if reference.is_free:
            cells[reference.root].cell_contents = replacement
        else:
            function.__globals__[PREFIX + reference.root] = replacement
    return new


def _module_stand_in(module):
    """A module whose attributes are those of ``module``, but for those that are set on it."""
    if module not in _MODULES:
        stand_in = types.ModuleType(f"{__package__}.stand_in.{module.__name__}", module.__doc__)
        stand_in.__getattr__ = lambda name: getattr(module, name)
        _MODULES[module] = stand_in
    return _MODULES[module]


def _with_names(function, names, cells):
    """A copy of a function with other global names, and with new cells for some variables.

    Args:
        names: global names that get :data:`PREFIX`.
        cells: {name: None} of the variables that get a new cell; the cells are stored in it.
    """
    closure = function.__closure__
    if cells:
        free = function.__code__.co_freevars
        for name in cells:
            cells[name] = types.CellType()
        closure = tuple(cells.get(name, cell) for name, cell in zip(free, closure, strict=True))
    new = types.FunctionType(
        renamed(function.__code__, frozenset(names)),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        closure,
    )
    for attribute in ("__kwdefaults__", "__qualname__", "__module__", "__doc__"):
        setattr(new, attribute, getattr(function, attribute))
    lazy = "__annotate__" if sys.version_info >= (3, 14) else "__annotations__"
    setattr(new, lazy, getattr(function, lazy))
    vars(new).update(vars(function))
    return new


def renamed(code, names):
    """A code object in which global names get :data:`PREFIX`, also in the code inside of it."""
    constants = tuple(
        renamed(one, names) if isinstance(one, types.CodeType) else one for one in code.co_consts
    )
    new_names, raw = list(code.co_names), bytearray(code.co_code)
    loads, other_uses = {}, set()
    for instruction in dis.get_instructions(code):
        if instruction.opcode not in dis.hasname:
            continue
        if instruction.opname != "LOAD_GLOBAL":
            other_uses.add(instruction.argval)
        elif instruction.argval in names:
            loads.setdefault(instruction.argval, []).append(instruction)
    for name, instructions in loads.items():
        if name not in other_uses:
            new_names[code.co_names.index(name)] = PREFIX + name
            continue
        # An attribute has the same name, as in `nn.functional` beside `torch.nn`: another index.
        for instruction in instructions:
            _set_name_index(raw, instruction, len(new_names))
        new_names.append(PREFIX + name)
    return code.replace(co_consts=constants, co_names=tuple(new_names), co_code=bytes(raw))


def _set_name_index(raw, instruction, index):
    """Sets which name a LOAD_GLOBAL loads, in the bytes of the code."""
    argument = index
    if sys.version_info >= (3, 11):  # the lowest bit says whether a call follows
        argument = index << 1 | instruction.arg & 1
    raw[instruction.offset + 1] = argument & 0xFF
    if instruction.arg > 0xFF:
        raw[instruction.offset - 1] = argument >> 8
    elif argument > 0xFF:
        raise _TooManyNames
