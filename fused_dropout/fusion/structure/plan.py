"""What is rewritten in the ``forward`` of one module."""

import ast
import copy
import functools
import inspect
from typing import NamedTuple

from torch import nn

from fused_dropout.fusion.class_swap import FusedMixin, class_of
from fused_dropout.fusion.drop_path import drop_path_not_fusable
from fused_dropout.fusion.dropout_layers import dropout_not_fusable
from fused_dropout.fusion.eligibility import top_level_package
from fused_dropout.fusion.patterns.torch_nn.sequential import ends_with_dropout
from fused_dropout.fusion.redirect import is_searched, redirected
from fused_dropout.fusion.structure import kernel_calls
from fused_dropout.fusion.structure.code import Code
from fused_dropout.fusion.structure.joining import join_statements
from fused_dropout.fusion.structure.rewriting import CALLS, OPENED, REWRITTEN, Rewriter
from fused_dropout.fusion.structure.roles import DROP_PATH, paths_in, roles_of
from fused_dropout.fusion.structure.source import method_from, tree_of


class Plan(NamedTuple):
    """The rewritten code of a class.

    Attributes:
        methods: {name: method} of the fused class: "fused_forward" if anything in ``forward`` is
            rewritten, "open_forward" if it ends with dropout (see ``branches.py``), and the methods
            that these call.
        rewrites: the methods of the original class in the place of which they run.
        drops: the paths of the dropout layers that run in kernels with what is beside them.
        checks: ``(path, names in the path, function that checks the child)`` of these, and of those
            that the caller of ``open_forward`` applies.
        lines: the lines of such calls of ``F.dropout``.
        texts: what runs in kernels, for the report.
        children: {path: role} of the linear layers, activations and norms in these.
    """

    methods: dict
    rewrites: tuple
    drops: tuple
    checks: tuple
    lines: frozenset
    texts: tuple
    children: dict


def can_be_rewritten(cls):
    """Whether the code of a class can be read and changed."""
    return "forward" in _trees(cls)


def variant_of(module, parents=()):
    """What a plan for a module depends on beside its class; None if nothing can be rewritten.

    ``parents`` are modules whose variants are being found, for modules that refer to each other.
    """
    inside = functools.partial(opens, parents=(*parents, module))
    roles = roles_of(module, _paths(class_of(module)), inside)
    return tuple(sorted(roles.items())) if roles else None


def plan_of(module, parents=()):
    """The :class:`Plan` for a module; None if nothing can be rewritten."""
    variant = variant_of(module, parents)
    return None if variant is None else plan(class_of(module), variant)


def opens(module, parents=()):
    """Whether the fused class of a module has ``open_forward``, see ``branches.py``."""
    if any(module is one for one in parents):
        return False
    if isinstance(module, nn.Sequential):
        return ends_with_dropout(module)
    if isinstance(module, FusedMixin):
        return hasattr(module, "open_forward")
    found = plan_of(module, parents)
    return found is not None and "open_forward" in found.methods


@functools.cache
def _trees(cls):
    """``{name: (method, syntax tree)}`` of ``forward`` and the methods that it names.

    Those that cannot be read are left out.

    A method comes after those that it names, so ``forward`` is the last.
    """
    if not is_searched(cls) or top_level_package(cls.__module__ or "") == "torch":
        return {}
    found, seen = {}, set()

    def add(name):
        seen.add(name)
        method = inspect.getattr_static(cls, name, None)
        if not callable(method) or (hasattr(nn.Module, name) and name != "forward"):
            return
        tree = tree_of(method)
        if tree is None:
            return
        for path in sorted(paths_in(tree)):
            if path not in seen:
                add(path)
        found[name] = method, tree

    add("forward")
    return found


@functools.cache
def _paths(cls):
    """The paths of the attributes that these methods mention; none if ``forward`` is not there."""
    trees = _trees(cls)
    return (
        frozenset().union(*(paths_in(tree) for _, tree in trees.values()))
        if "forward" in trees
        else frozenset()
    )


@functools.cache
def plan(cls, variant):
    """The :class:`Plan` for modules of a class; ``variant``: see :func:`variant_of`."""
    roles, methods, rewrites = dict(variant), {}, []
    drops, bypassed, lines, texts, children = {}, {}, {}, {}, {}
    for name, (original, tree) in _trees(cls).items():
        if inspect.getattr_static(cls, name, None) is not original:  # it was replaced
            return None
        tree = copy.deepcopy(tree)
        code = Code(tree, roles, inspect.unwrap(original), methods)
        join_statements(tree, code)
        opened, opener, rewriter = copy.deepcopy(tree), Rewriter(code), Rewriter(code)
        tree.body = rewriter.block(tree.body)
        new = {}
        if rewriter.has_changed:
            new["fused_forward" if name == "forward" else REWRITTEN + name] = tree
        # A decorator, or `__call__`, expects the result of the original method.
        is_plain = not hasattr(original, "__wrapped__") and cls.__call__ is nn.Module.__call__
        if is_plain and _open(opened, opener):
            new["open_forward" if name == "forward" else OPENED + name] = opened
        for new_name, new_tree in new.items():
            methods[new_name] = redirected(method_from(new_tree, original, {CALLS: kernel_calls}))
        if new:
            rewrites.append(name)
            texts |= rewriter.texts
            drops |= rewriter.drops
            lines |= rewriter.lines
            children |= rewriter.children
            bypassed |= rewriter.drops | (opener.drops if opened in new.values() else {})
    if methods.keys().isdisjoint(("fused_forward", "open_forward")):
        return None
    texts = tuple(texts) or ("end of a branch",)
    checks = tuple(
        (
            path,
            tuple(path.split(".")),
            drop_path_not_fusable if roles[path] == DROP_PATH else dropout_not_fusable,
        )
        for path in bypassed
    )
    return Plan(methods, tuple(rewrites), tuple(drops), checks, frozenset(lines), texts, children)


def _open(tree, rewriter):
    """Rewrites a function so that it returns before dropout. Returns whether that is possible."""
    *_, last = tree.body
    returns = [node for node in ast.walk(tree) if isinstance(node, ast.Return)]
    if returns != [last] or last.value is None:
        return False
    value, last.value = last.value, None
    tree.body = rewriter.block(tree.body)
    last.value = rewriter.end(value)
    return last.value is not None
