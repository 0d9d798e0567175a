"""Recognises the classes of other libraries by the source code of their ``forward``.

A fused module replaces one specific ``forward``. Libraries have copies of the same code under many
class names, and they change the code between versions. So a pattern compares fingerprints: hashes
of the syntax tree without what does not matter for the result (see ``syntax.py``). A pattern keeps
the fingerprints of all versions for which its fused ``forward`` is right.

The command prints the fingerprint of a class or function, or of all classes in a file, which is not
imported::

    python -m fused_dropout.fusion.fingerprint transformers.models.vit.modeling_vit.ViTLayer
    python -m fused_dropout.fusion.fingerprint another_version/modeling_vit.py
"""

import argparse
import ast
import collections
import functools
import hashlib
import inspect
import pkgutil
from pathlib import Path

from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.registry import add_pattern
from fused_dropout.fusion.syntax import (
    canonical,
    definition_of,
    imported_torch_names,
    torch_names,
)


@functools.cache
def fingerprint_of(function):
    """The fingerprint of a function, 16 hexadecimal digits; None if its source cannot be read."""
    definition = definition_of(function)
    return None if definition is None else _fingerprint(definition, torch_names(function))


def fingerprints_in(source):
    """``{name of a class: fingerprint of its forward}`` for the source code of a file, a text."""
    module = ast.parse(source)
    names = imported_torch_names(module)
    return {
        cls.name: _fingerprint(method, names)
        for cls in module.body
        if isinstance(cls, ast.ClassDef)
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and method.name == "forward"
    }


def _fingerprint(definition, names):
    text = _as_text(canonical(definition, names))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_IGNORED_FIELDS = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}


def _as_text(node):
    """A syntax tree as one line, the same in all versions of Python."""
    if isinstance(node, (list, tuple)):
        return "[" + ",".join(map(_as_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={_as_text(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _IGNORED_FIELDS and value not in (None, [])
    )
    return f"{type(node).__name__}({','.join(fields)})"


#: The fingerprints of all patterns that were added: {mixin: tuple of fingerprints}.
FINGERPRINTS = {}
_KNOWN = collections.defaultdict(set)  # {library: the fingerprints of all its patterns}


def add_fingerprint_pattern(library, mixin, fingerprints, names, description):
    """Adds a pattern for the classes of a library whose ``forward`` has a known fingerprint.

    Args:
        library: the name of the library, and the group of the pattern.
        mixin, description: see :func:`~.registry.add_pattern`.
        fingerprints: tuple of the fingerprints of the ``forward`` that ``mixin`` replaces.
        names: compiled regular expression for the names of classes, with or without their Python
            module. If such a class has a fingerprint that no pattern knows, the report lists it as
            skipped. None for a pattern that replaces the ``forward`` of some versions only, next to
            another pattern that has the names.
    """

    FINGERPRINTS[mixin] = FINGERPRINTS.get(mixin, ()) + fingerprints
    _KNOWN[library].update(fingerprints)

    def has_name(cls):
        full = f"{cls.__module__}.{cls.__name__}"
        return names is not None and (names.fullmatch(cls.__name__) or names.fullmatch(full))

    @functools.cache
    def matches(cls):
        bases = [base for base in cls.__mro__ if hasattr(base, "forward")]
        bases = [base for base in bases if top_level_package(base.__module__) == library]
        if bases and fingerprint_of(cls.forward) in _KNOWN[library]:
            return fingerprint_of(cls.forward) in fingerprints
        return any(has_name(base) or fingerprint_of(base.forward) in fingerprints for base in bases)

    def class_not_fusable(cls):
        if fingerprint_of(cls.forward) not in fingerprints:
            return f"{cls.__qualname__}.forward has no known fingerprint"
        if any(top_level_package(_module_of(one)) != library for one in _wrapped(cls.forward)):
            return f"{cls.__qualname__}.forward was replaced"
        return None

    add_pattern(library, mixin, matches, description, class_not_fusable)


def _wrapped(function):
    """A function and the functions that it wraps, as set by decorators."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _module_of(function):
    return getattr(function, "__globals__", {}).get("__name__", "")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m fused_dropout.fusion.fingerprint",
        description="Prints the fingerprint of a function, or of the forward of a class.",
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="such as torch.nn.Linear, or a Python file"
    )
    for name in parser.parse_args(arguments).names:
        try:
            for found, fingerprint in _fingerprints_of_name(name).items():
                print(f"{fingerprint}  {found}")
        except (OSError, SyntaxError, ValueError) as error:
            parser.error(str(error))


def _fingerprints_of_name(name):
    if not name.endswith(".py"):
        return {name: _fingerprint_of_name(name)}
    return fingerprints_in(Path(name).read_text(encoding="utf-8"))


def _fingerprint_of_name(name):
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported: {error}") from error
    function = found
    if inspect.isclass(found):
        function = getattr(found, "forward", None)
        if function is None:
            raise ValueError(f"{name} is a class without a method forward")
    if not inspect.isfunction(function):
        raise ValueError(
            f"{name} is a {type(found).__name__}, but expected a class or a function in Python"
        )
    fingerprint = fingerprint_of(function)
    if fingerprint is None:
        raise ValueError(f"the source code of {name} cannot be read")
    return fingerprint


if __name__ == "__main__":
    main()
