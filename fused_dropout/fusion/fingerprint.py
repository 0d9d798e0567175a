"""Recognises the classes of other libraries by the source code of their ``forward``.

A fused module replaces one specific ``forward``. Libraries have copies of the same code under many
class names, and they change the code between versions. So a pattern compares fingerprints: hashes
of the source code without comments, docstrings, annotations and layout.

The command prints the fingerprint of a class or function::

    python -m fused_dropout.fusion.fingerprint transformers.models.vit.modeling_vit.ViTLayer
"""

import argparse
import ast
import functools
import hashlib
import inspect
import pkgutil
import textwrap

from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.registry import add_pattern


@functools.cache
def fingerprint_of(function):
    """The fingerprint of a function, 16 hexadecimal digits; None if its source cannot be read."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        (definition,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return definition_fingerprint(definition) if isinstance(definition, ast.FunctionDef) else None


def definition_fingerprint(definition):
    """The fingerprint of a function, from its syntax tree (an ``ast.FunctionDef``)."""
    arguments, body = definition.args, definition.body
    if ast.get_docstring(definition) is not None:
        body = body[1:]
    text = _canonical_text([arguments, body])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


_IGNORED_FIELDS = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}


def _canonical_text(node):
    """A syntax tree as one line, the same in all versions of Python."""
    if isinstance(node, list):
        return "[" + ",".join(map(_canonical_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={_canonical_text(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _IGNORED_FIELDS and value not in (None, [])
    )
    return f"{type(node).__name__}({','.join(fields)})"


#: The fingerprints of all patterns that were added: {mixin: tuple of fingerprints}.
FINGERPRINTS = {}


def add_fingerprint_pattern(library, mixin, fingerprints, names, description):
    """Adds a pattern for the classes of a library whose ``forward`` has a known fingerprint.

    Args:
        library: the name of the library, and the group of the pattern.
        mixin, description: see :func:`~.registry.add_pattern`.
        fingerprints: tuple of the fingerprints of the ``forward`` that ``mixin`` replaces.
        names: compiled regular expression for the names of classes, with or without their Python
            module. If such a class has another fingerprint, the report lists it as skipped.
    """

    FINGERPRINTS[mixin] = fingerprints

    @functools.cache
    def matches(cls):
        return any(
            top_level_package(base.__module__) == library
            and (
                names.fullmatch(base.__name__)
                or names.fullmatch(f"{base.__module__}.{base.__name__}")
                or fingerprint_of(base.forward) in fingerprints
            )
            for base in cls.__mro__
            if hasattr(base, "forward")
        )

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
    parser.add_argument("names", nargs="+", metavar="NAME", help="such as torch.nn.Linear")
    for name in parser.parse_args(arguments).names:
        try:
            print(f"{_fingerprint_of_name(name)}  {name}")
        except ValueError as error:
            parser.error(str(error))


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
