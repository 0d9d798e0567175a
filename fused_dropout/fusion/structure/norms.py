"""Recognises classes that normalise as ``nn.LayerNorm`` or ``nn.RMSNorm`` do, by their code.

The code of ``forward`` is evaluated with symbols. Conversions of the dtype do not count: they
matter for rounding only. In the symbols products and sums are sorted, so that the order in which
they are written does not matter.
"""

import ast
import inspect
from typing import NamedTuple

import torch
from torch import nn

from fused_dropout.fusion.norms import NormParameters
from fused_dropout.fusion.structure.source import tree_of
from fused_dropout.fusion.syntax import torch_names

_CASTS = ("to", "float", "type_as")


class Norm(NamedTuple):
    """A norm over the last dimension.

    Attributes:
        kind: "layer" or "rms".
        weight, bias: names of attributes; ``bias`` is None for "rms".
        eps: the name of an attribute, or a number.
        widens: whether 16-bit input may give a float32 result.
        methods: ``(name, method)`` of the methods that compute it, beside ``forward``.
    """

    kind: str
    weight: str
    bias: str | None
    eps: object
    widens: bool = False
    methods: tuple = ()

    def parameters(self, module):
        """The parameters of a module for the kernel; None if it has others."""
        weight = getattr(module, self.weight)
        bias = None if self.bias is None else getattr(module, self.bias)
        eps = getattr(module, self.eps) if isinstance(self.eps, str) else self.eps
        if not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
            return None
        if bias is not None and not isinstance(bias, nn.Parameter):
            return None
        if self.widens and weight.dtype not in (torch.float32, torch.float64):
            return None
        for name, method in self.methods:
            if name in vars(module) or getattr(type(module), name) is not method:
                return None
        return NormParameters(weight, bias, eps, tuple(weight.shape), weight.dtype)


class _Unknown(Exception):
    pass


class _Notes(NamedTuple):
    """What was seen: the kinds of casts, "wide" and "back", and {name: method}."""

    casts: set
    methods: dict


def norm_of_class(cls):
    """The :class:`Norm` that instances of a class compute; None if they compute something else."""
    notes = _Notes(set(), {})
    try:
        found = _norm(_result_of(cls, cls.forward, [("x",)], notes))
    except _Unknown:
        return None
    if found is None or cls.__call__ is not nn.Module.__call__:
        return None
    widens = "wide" in notes.casts and "back" not in notes.casts
    return found._replace(widens=widens, methods=tuple(notes.methods.items()))


def _norm(symbol):
    if symbol[0] in ("layer", "rms"):
        return Norm(*symbol)
    x = ("x",)
    if symbol[0] != "product":
        return None
    factors = list(symbol[1])
    if x not in factors:
        return None
    factors.remove(x)
    weights = [one[1] for one in factors if one[0] == "attribute"]
    roots = [one[1] for one in factors if one[0] == "rsqrt"]
    if len(factors) != 2 or len(weights) != 1 or len(roots) != 1 or roots[0][0] != "sum":
        return None
    terms = list(roots[0][1])
    mean = ("mean", ("square", x))
    if len(terms) != 2 or mean not in terms:
        return None
    terms.remove(mean)
    kind, eps = terms[0]
    return Norm("rms", weights[0], None, eps) if kind in ("attribute", "number") else None


def _result_of(cls, function, arguments, notes, depth=0):
    """The symbol that a method returns."""
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__") or depth > 3:
        raise _Unknown
    tree = tree_of(function)
    if tree is None or tree.args.vararg or tree.args.kwarg:
        raise _Unknown
    self_name, *names = (one.arg for one in tree.args.posonlyargs + tree.args.args)
    if len(names) != len(arguments) or tree.args.kwonlyargs:
        raise _Unknown
    symbols = _Symbols(
        cls, self_name, dict(zip(names, arguments, strict=True)), function, notes, depth
    )
    for statement in tree.body:
        if isinstance(statement, ast.Return) and statement.value is not None:
            return symbols.of(statement.value)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            if len(statement.targets) != 1:
                raise _Unknown
            symbols.values[statement.targets[0].id] = symbols.of(statement.value)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            raise _Unknown
    raise _Unknown


class _Symbols:
    def __init__(self, cls, self_name, values, function, notes, depth):
        self.cls, self.self_name, self.values, self.depth = cls, self_name, values, depth
        self.notes = notes
        self.names = torch_names(function)

    def of(self, node):
        """The symbol of an expression, a tuple."""
        match node:
            case ast.Name(id=name) if name in self.values:
                return self.values[name]
            case ast.Constant(value=int() | float() as value):
                return "number", float(value)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self.self_name:
                return "attribute", attr
            case ast.Attribute(attr="dtype" | "device"):
                return ("ignored",)
            case ast.BinOp(left, ast.Add(), right):
                return _flat("sum", self.of(left), self.of(right))
            case ast.BinOp(left, ast.Mult(), right):
                one, other = self.of(left), self.of(right)
                return ("square", one) if one == other else _flat("product", one, other)
            case ast.BinOp(left, ast.Div(), right):
                return _flat("product", self.of(left), _reciprocal(self.of(right)))
            case ast.BinOp(left, ast.Pow(), right):
                return _power(self.of(left), self.of(right))
            case ast.UnaryOp(ast.USub(), operand):
                kind, *value = self.of(operand)
                if kind != "number":
                    raise _Unknown
                return "number", -value[0]
            case ast.Call():
                return self._call(node)
        raise _Unknown

    def _call(self, node):
        keywords = {one.arg: one.value for one in node.keywords}
        function = node.func
        if any(isinstance(one, ast.Starred) for one in node.args) or None in keywords:
            raise _Unknown
        if isinstance(function, ast.Name):
            return self._torch(self.names.get(function.id, ""), node.args, keywords)
        if not isinstance(function, ast.Attribute):
            raise _Unknown
        if isinstance(function.value, ast.Name) and function.value.id == self.self_name:
            method = inspect.getattr_static(self.cls, function.attr, None)
            arguments = [self.of(one) for one in node.args]
            if keywords:
                raise _Unknown
            self.notes.methods[function.attr] = method
            return _result_of(self.cls, method, arguments, self.notes, self.depth + 1)
        full = self._full_name(function.value)
        if full is not None:
            return self._torch(f"{full}.{function.attr}", node.args, keywords)
        if function.attr in _CASTS:
            self.notes.casts.add(self._kind_of_cast(node))
            return self.of(function.value)
        return self._torch(f"torch.{function.attr}", [function.value, *node.args], keywords)

    def _kind_of_cast(self, node):
        """ "wide" for a cast to float32, "back" for a cast to the dtype of another tensor."""
        texts = [ast.unparse(one) for one in (*node.args, *(one.value for one in node.keywords))]
        if (node.func.attr == "float" and not texts) or texts == ["torch.float32"]:
            return "wide"
        if len(texts) == 1 and not texts[0].startswith("torch."):
            return "back"
        raise _Unknown

    def _full_name(self, node):
        """The full name of a module of torch; None for other expressions."""
        if isinstance(node, ast.Name) and node.id not in self.values:
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            full = self._full_name(node.value)
            return None if full is None else f"{full}.{node.attr}"
        return None

    def _torch(self, name, arguments, keywords):
        """A function of torch, or a method of a tensor."""
        match name, arguments:
            case "torch.pow", [x, exponent] if not keywords:
                return _power(self.of(x), self.of(exponent))
            case "torch.square", [x] if not keywords:
                return "square", self.of(x)
            case "torch.rsqrt", [x] if not keywords:
                return "rsqrt", self.of(x)
            case "torch.sqrt", [x] if not keywords:
                return "sqrt", self.of(x)
            case "torch.mul", [x, y] if not keywords:
                return _flat("product", self.of(x), self.of(y))
            case "torch.add", [x, y] if not keywords:
                return _flat("sum", self.of(x), self.of(y))
            case "torch.mean", [x, *dims]:
                dims += [value for key, value in keywords.items() if key in ("dim", "axis")]
                texts = [ast.unparse(one) for one in dims]
                keeps = ast.unparse(keywords.get("keepdim", ast.Constant(False)))
                if texts not in (["-1"], ["-1", "True"]) or (len(texts) == 1 and keeps != "True"):
                    raise _Unknown
                return "mean", self.of(x)
            case "torch.nn.functional.layer_norm" | "torch.nn.functional.rms_norm", _:
                return self._torch_norm(name.rpartition(".")[2], arguments, keywords)
        raise _Unknown

    def _torch_norm(self, name, arguments, keywords):
        parameters = ["input", "normalized_shape", "weight", "bias", "eps"]
        if name == "rms_norm":
            parameters.remove("bias")
        given = dict(zip(parameters, arguments, strict=False)) | keywords
        if self.of(given["input"]) != ("x",) or "weight" not in given:
            raise _Unknown
        weight = self._attribute(given["weight"])
        shape = ast.unparse(given["normalized_shape"])
        owner = f"{self.self_name}.{weight}"
        if shape not in (f"{owner}.shape", f"{owner}.size()"):
            raise _Unknown
        bias = self._attribute(given["bias"]) if "bias" in given else None
        eps = self.of(given["eps"])[1] if "eps" in given else 1e-5
        if "eps" not in given and name == "rms_norm":
            raise _Unknown
        return name.removesuffix("_norm"), weight, bias, eps

    def _attribute(self, node):
        kind, *name = self.of(node)
        if kind != "attribute":
            raise _Unknown
        return name[0]


def _flat(kind, *symbols):
    parts = []
    for one in symbols:
        parts += one[1] if one[0] == kind else [one]
    return kind, tuple(sorted(parts, key=repr))


def _power(base, exponent):
    if exponent == ("number", 2.0):
        return "square", base
    if exponent == ("number", -0.5):
        return "rsqrt", base
    if exponent == ("number", 0.5):
        return "sqrt", base
    raise _Unknown


def _reciprocal(symbol):
    if symbol[0] == "sqrt":
        return "rsqrt", symbol[1]
    raise _Unknown
