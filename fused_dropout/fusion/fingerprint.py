"""Recognises the classes of other packages by what their ``forward`` says.

A fused module does what a certain text of ``forward`` does. Packages repeat such a text under many
names (each model has its own copy of the same block) and change it from version to version, so it
is the text that decides, not the name: its digest, without what does not matter (comments,
docstrings, annotations, layout).
"""

import ast
import functools
import hashlib
import inspect
import textwrap

from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.registry import add_pattern


@functools.cache
def fingerprint_of(function):
    """The digest of a function's text; None where its source cannot be read."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        (definition,) = ast.parse(source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    return definition_fingerprint(definition) if isinstance(definition, ast.FunctionDef) else None


def definition_fingerprint(definition):
    """The same for the syntax tree of a function."""
    arguments, body = definition.args, definition.body
    if ast.get_docstring(definition) is not None:
        body = body[1:]
    text = _text([arguments, body])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


#: What was added: {mixin: digests}.
FINGERPRINTS = {}


def add_fingerprint_pattern(group, package, mixin, forms, names, what):
    """Adds a pattern for classes of a package whose forward has one of some forms.

    Args:
        group, mixin, what: see :func:`~.registry.add_pattern`.
        package: name of the package.
        forms: digests by :func:`fingerprint_of`, a tuple.
        names: of classes that are expected to have such a forward, with or without their module, a
            compiled pattern; where they do not, the report says so.
    """

    FINGERPRINTS[mixin] = forms

    @functools.cache
    def matches(cls):
        return any(
            top_level_package(base.__module__) == package
            and (
                names.fullmatch(base.__name__)
                or names.fullmatch(f"{base.__module__}.{base.__name__}")
                or fingerprint_of(base.forward) in forms
            )
            for base in cls.__mro__
            if hasattr(base, "forward")
        )

    def class_not_fusable(cls):
        if fingerprint_of(cls.forward) not in forms:
            return f"{cls.__qualname__}.forward is not one that is known"
        if any(top_level_package(_module_of(one)) != package for one in _wrapped(cls.forward)):
            return f"{cls.__qualname__}.forward was exchanged"
        return None

    add_pattern(group, mixin, matches, what, class_not_fusable)


def _wrapped(function):
    """A function and those inside of it, as decorators leave them."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _module_of(function):
    return getattr(function, "__globals__", {}).get("__name__", "")


_IRRELEVANT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}


def _text(node):
    """A syntax tree in one line, equal for all versions of Python."""
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={_text(value)}"
        for name, value in ast.iter_fields(node)
        if name not in _IRRELEVANT and value not in (None, [])
    )
    return f"{type(node).__name__}({','.join(fields)})"
