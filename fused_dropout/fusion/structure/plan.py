"""What is rewritten in the ``forward`` of one module."""

import ast
import copy
import functools
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from fused_dropout.fusion.class_swap import FusedMixin, unfused_class
from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.patterns.torch_nn.sequential import ends_with_dropout
from fused_dropout.fusion.redirect import is_searched, redirected
from fused_dropout.fusion.structure import kernel_calls
from fused_dropout.fusion.structure.joining import Code, join_statements
from fused_dropout.fusion.structure.rewriting import CALLS, Rewriter
from fused_dropout.fusion.structure.roles import first_parameter, roles_of
from fused_dropout.fusion.structure.source import method_from, tree_of


class Plan(NamedTuple):
    """The rewritten code of a class.

    Attributes:
        forward: the method; None if only the end is rewritten.
        open_forward: the method without the dropout at the end (see ``branches.py``), or None.
        drops: the paths of the dropout layers that run in kernels with what is beside them.
        lines: the lines of such calls of ``F.dropout``.
        texts: what runs in kernels, for the report.
    """

    forward: Callable | None
    open_forward: Callable | None
    drops: tuple
    lines: frozenset
    texts: tuple


def class_of(module):
    """The class of a module before it was fused."""
    return unfused_class(type(module)) or type(module)


def can_be_rewritten(cls):
    """Whether the code of a class can be read and changed."""
    return _tree(cls) is not None


def variant_of(module):
    """What a plan for a module depends on beside its class; None if nothing can be rewritten."""
    tree = _tree(class_of(module))
    if tree is None:
        return None
    roles = roles_of(module, tree, opens)
    return tuple(sorted(roles.items())) if roles else None


def plan_of(module):
    """The :class:`Plan` for a module; None if nothing can be rewritten."""
    variant = variant_of(module)
    return None if variant is None else plan(class_of(module), variant)


def opens(module):
    """Whether the fused class of a module has ``open_forward``, see ``branches.py``."""
    if isinstance(module, nn.Sequential):
        return ends_with_dropout(module)
    if isinstance(module, FusedMixin):
        return hasattr(module, "open_forward")
    found = plan_of(module)
    return found is not None and found.open_forward is not None


@functools.cache
def _tree(cls):
    """The syntax tree of ``forward``; None if it cannot be rewritten."""
    if not is_searched(cls) or top_level_package(cls.__module__ or "") == "torch":
        return None
    return tree_of(cls.forward)


@functools.cache
def plan(cls, variant):
    """The :class:`Plan` for modules of a class; ``variant``: see :func:`variant_of`."""
    tree = _tree(cls)
    if tree is None:
        return None
    tree, roles = copy.deepcopy(tree), dict(variant)
    code = Code(tree, first_parameter(tree), roles, cls.forward.__globals__)
    join_statements(tree, code)
    rewriter, open_tree = Rewriter(code), copy.deepcopy(tree)
    tree.body = rewriter.block(tree.body)
    is_fused = bool(rewriter.drops or rewriter.lines or rewriter.texts)
    open_forward = None
    if _opened(open_tree, Rewriter(code)):
        open_forward = _method(open_tree, cls)
    if not is_fused and open_forward is None:
        return None
    return Plan(
        _method(tree, cls) if is_fused else None,
        open_forward,
        tuple(rewriter.drops),
        frozenset(rewriter.lines),
        tuple(rewriter.texts) or ("the end of a branch",),
    )


def _opened(tree, rewriter):
    """Rewrites a function so that it returns before dropout. Returns whether that is possible."""
    *_, last = tree.body
    returns = [node for node in ast.walk(tree) if isinstance(node, (ast.Return, ast.Yield))]
    if returns != [last] or last.value is None:
        return False
    value, last.value = last.value, None
    tree.body = rewriter.block(tree.body)
    last.value = rewriter.end(value)
    return last.value is not None


def _method(tree, cls):
    return redirected(method_from(tree, cls.forward, {CALLS: kernel_calls}))
