"""Generated calls of the operators torch.ops.fused_dropout.*, in which some arguments are wrong.

For any arguments, an operator returns a result or raises an error that says what is wrong.
"""

import math
from typing import NamedTuple

import torch
from hypothesis import strategies as st

import fused_dropout.functional as FF
from tests.fuzz.settings import ACTIVATIONS, announce
from tests.fuzz.tensors import (
    DTYPES,
    LAYOUTS,
    Ints,
    Spec,
    probabilities,
    shapes,
    specs,
    states,
)
from tests.noise.calls import DRAWING, NUMBERS

SCHEMAS = {
    schema.name.split("::")[1]: schema
    for schema in torch._C._jit_get_all_schemas()
    if schema.name.startswith("fused_dropout::")
}
ALLOWED = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


class OperatorCall(NamedTuple):
    operator: str
    arguments: dict

    def run(self):
        """Runs the call and returns its error, or None."""
        announce(self)
        schema = SCHEMAS[self.operator]
        given = {
            argument.name: _passed(_kind_of(argument), self.arguments[argument.name])
            for argument in schema.arguments
        }
        try:
            getattr(torch.ops.fused_dropout, self.operator)(**given)
        except ALLOWED as error:
            return error
        return None


def _passed(kind, value):
    if isinstance(value, (Spec, Ints)):
        return value.build()
    if value is not None and kind == "ScalarType":
        return getattr(torch, value)
    return list(value) if isinstance(value, tuple) else value


def check_operator(call):
    error = call.run()
    assert "INTERNAL ASSERT" not in str(error), error


# ---------------------------------------------------------------- valid arguments


def _strides(shape):
    strides, step = [], 1
    for size in reversed(shape):
        strides.insert(0, step)
        step *= max(size, 1)
    return tuple(strides)


@st.composite
def _valid_arguments(draw, operator, shape):
    """A valid value for each argument name of the schemas; `shape` is that of the result."""
    dtype = draw(st.sampled_from(DTYPES))
    is_gated, is_norm = "glu" in operator, "norm" in operator
    x_shape = (*shape[:-1], 2 * shape[-1]) if is_gated else shape
    bias_dim = draw(st.integers(-len(shape), len(shape) - 1))
    channels = x_shape[bias_dim if "act" in operator else -1]
    rows = int(torch.Size(shape[:-1]).numel())
    kind = draw(st.sampled_from(("layer_norm", "rms_norm")))

    def tensor(shape, dtype=dtype):
        return Spec(shape, dtype, draw(st.sampled_from(LAYOUTS)), "normal", draw(st.integers(0, 9)))

    def maybe(value):
        return draw(st.sampled_from((None, value)))

    state = draw(states())
    row, vector = tensor(shape), tensor((channels,))
    return {
        **NUMBERS,
        **{key: row for call in DRAWING.values() for key in call.elementwise},
        **{key: tensor(()) for call in DRAWING.values() for key in call.scalars},
        "x": tensor(x_shape),
        "token": tensor(x_shape),
        "dy": row,
        "dh": maybe(row),
        "h": maybe(row),
        "input": row,
        "residual": maybe(row),
        "bias": maybe(vector),
        "weight": maybe(vector),
        "norm_bias": None if kind == "rms_norm" else maybe(vector),
        "layer_scale": maybe(vector),
        "row_scale": maybe(tensor(shape[:-1])),
        "statistics": tensor((2 if kind == "layer_norm" else 1, rows), "float32"),
        "rng_state": state,
        "kept": Ints(3) if operator == "drop_block" else None,
        "generator": None,
        "on_host": draw(st.booleans()),
        "gate_first": draw(st.booleans()),
        "prenorm": draw(st.booleans()),
        "from_output": draw(st.booleans()),
        "norm": kind,
        "eps": 1e-5,
        "p": draw(probabilities()),
        "p_tensor": draw(st.sampled_from((None, None, Spec((), "float64", values="unit")))),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "negative_slope": None,
        "alpha": 1.5 if operator.startswith("standout") else None,
        "bias_dim": bias_dim,
        "dropout_mode": draw(st.sampled_from(FF.MODES)),
        "training": draw(st.booleans()),
        "shared_dims": maybe((0,)) or (),
        "mask_strides": maybe(_strides(shape)),
        "mask_offset": draw(st.sampled_from((0, 7, 2**40))),
        "strides": _strides(x_shape),
        "size": shape,
        "dtype": dtype,
        "h_dtype": dtype,
        "z_dtype": dtype,
        "bias_dtype": dtype,
        "output_mask": tuple(draw(st.lists(st.booleans(), min_size=6 if is_norm else 2,
                                           max_size=6 if is_norm else 2))),
        "block_size": draw(st.sampled_from((1, 3, 7))),
        "shared_channels": draw(st.booleans()),
    }  # fmt: skip


# ---------------------------------------------------------------- invalid arguments

# Sizes are either computed at once or impossible to allocate; none in between.
_NUMBERS = st.one_of(
    st.integers(-3, 40),
    st.sampled_from((2**40, 2**62, 2**63 - 1, -(2**62), -(2**63))),
)
_FLOATS = st.sampled_from((-1.0, 0.0, 1e-300, 2.0, 1e300, math.inf, -math.inf, math.nan))


@st.composite
def _any_tensor(draw):
    if draw(st.integers(0, 4)) == 0:
        return Ints(tuple(draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))))
    dtypes = (*DTYPES, "int64", "bool", "int32")
    spec = draw(specs(shapes(most=4, elements=500), dtypes, values=("normal",)))
    return spec._replace(device=draw(st.sampled_from(("cpu",) * 7 + ("meta",))))


@st.composite
def _close_to(draw, spec):
    """A tensor of another dtype, or of a shape that differs a little."""
    if not isinstance(spec, Spec):
        return draw(_any_tensor())
    shape = list(spec.shape)
    change = draw(st.integers(0, 4))
    if change == 0:
        return spec._replace(dtype=draw(st.sampled_from((*DTYPES, "int64"))))
    if change == 1 and shape:
        shape.pop(draw(st.integers(0, len(shape) - 1)))
    elif change == 2:
        shape.insert(draw(st.integers(0, len(shape))), draw(st.integers(0, 3)))
    elif shape:
        dim = draw(st.integers(0, len(shape) - 1))
        shape[dim] = max(0, draw(st.sampled_from((shape[dim] - 1, shape[dim] + 1, 0, 1))))
    return spec._replace(shape=tuple(shape))


@st.composite
def _invalid_value(draw, kind, value):
    """Another value for an argument of this type in the schema."""
    if kind.startswith("Optional") and draw(st.integers(0, 3)) == 0:
        return None
    if "Tensor" in kind:
        return draw(st.one_of(_close_to(value), _any_tensor()))
    if "List[bool]" in kind:
        return tuple(draw(st.lists(st.booleans(), min_size=len(value), max_size=len(value))))
    if "List" in kind:
        numbers = list(value or ())
        if numbers and draw(st.booleans()):
            numbers[draw(st.integers(0, len(numbers) - 1))] = draw(_NUMBERS)
            return tuple(numbers)
        return tuple(draw(st.lists(_NUMBERS, max_size=6)))
    if "str" in kind:
        return draw(st.sampled_from((*ACTIVATIONS, *FF.MODES, "layer_norm", "rms_norm", "", "ß")))
    if "float" in kind:
        return draw(_FLOATS)
    if "bool" in kind:
        return not value
    if "Generator" in kind:
        return None
    return draw(_NUMBERS)


@st.composite
def operator_calls(draw, operator):
    least = 3 if "block" in operator else 1
    shape = draw(shapes(least=least, most=4, elements=1200))
    arguments = draw(_valid_arguments(operator, shape))
    schema = SCHEMAS[operator]
    names = {argument.name: _kind_of(argument) for argument in schema.arguments}
    chosen = {name: arguments[name] for name in names}
    # Half of the changes are to tensors, because wrong tensors cause wrong memory accesses.
    tensors = [name for name in sorted(names) if "Tensor" in names[name]]
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(tensors) | st.sampled_from(sorted(names)))
        if names[name] == "ScalarType":
            chosen[name] = draw(st.sampled_from((*DTYPES, "int64", "bool", "complex64")))
        else:
            chosen[name] = draw(_invalid_value(names[name], chosen[name]))
    return OperatorCall(operator, chosen)


def _kind_of(argument):
    """The type in the schema. For torch, a dtype has the type int."""
    if argument.name == "dtype" or argument.name.endswith("_dtype"):
        return "ScalarType"
    return str(argument.type)
