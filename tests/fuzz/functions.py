"""Generated calls of the public functions, and their expected results.

A call is the name of a function and a dict of arguments. Tensors are described as data, see
tensors.py.
"""

from typing import NamedTuple

import torch
from hypothesis import strategies as st

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.fuzz.settings import ACTIVATIONS
from tests.fuzz.tensors import (
    DTYPES,
    Ints,
    Spec,
    probabilities,
    shapes,
    shared,
    specs,
    states,
)
from tests.noise.calls import DRAWING

NOISE = {call.function: call for call in DRAWING.values()}


class Call(NamedTuple):
    function: str
    arguments: dict

    def build(self):
        """The arguments, with tensors instead of their descriptions."""
        return {
            key: value.build() if isinstance(value, (Spec, Ints)) else value
            for key, value in self.arguments.items()
        }


def maybe(strategy):
    return st.none() | strategy


# ---------------------------------------------------------------- generated arguments


@st.composite
def _mask_options(draw, shape):
    """The arguments that all functions with a mask have in common."""
    arguments = {
        "p": draw(probabilities()),
        "rng_state": draw(states()),
        "training": draw(st.integers(0, 7)) > 0,
    }
    dims = draw(shared(len(shape)))
    if draw(st.booleans()):
        arguments["shared_dims"] = dims
    else:
        arguments["noise_shape"] = tuple(
            1 if dim in dims else size for dim, size in enumerate(shape)
        )
    return arguments


@st.composite
def _mode(draw):
    return {"mode": draw(st.sampled_from(FF.MODES))}


@st.composite
def _activation(draw):
    activation = draw(st.sampled_from(ACTIVATIONS))
    arguments = {"activation": activation}
    if activation == "leaky_relu":
        arguments["negative_slope"] = draw(maybe(st.floats(-2, 2)))
    if activation == "elu":
        arguments["alpha"] = draw(maybe(st.floats(-2, 2)))
    return arguments


@st.composite
def _dropout(draw):
    x = draw(specs(shapes()))
    options = draw(_mask_options(x.shape)) | draw(_mode())
    return Call("dropout", {"x": x, **options, "inplace": draw(st.booleans())})


@st.composite
def _bias_act_dropout(draw):
    x = draw(specs(shapes(least=1)))
    dim = draw(st.integers(-len(x.shape), len(x.shape) - 1))
    arguments = {
        "x": x,
        "bias": draw(maybe(specs(x.shape[dim : dim + 1 or None]))),
        "residual": draw(maybe(specs(x.shape))),
        "bias_dim": dim,
    }
    return Call(
        "bias_act_dropout",
        arguments | draw(_mask_options(x.shape)) | draw(_mode()) | draw(_activation()),
    )


@st.composite
def _bias_glu_dropout(draw):
    *rows, width = draw(shapes(least=1, elements=3000))
    x = draw(specs((*rows, 2 * width)))
    options = draw(_mask_options((*rows, width))) | draw(_mode()) | draw(_activation())
    options.pop("noise_shape", None)
    bias = draw(maybe(specs((2 * width,))))
    return Call(
        "bias_glu_dropout", {"x": x, "bias": bias, "gate_first": draw(st.booleans()), **options}
    )


@st.composite
def _norm(draw):
    kind = draw(st.sampled_from(("layer_norm", "rms_norm")))
    x = draw(specs(shapes(least=1), values=("normal",)))
    vector = maybe(specs(x.shape[-1:], values=("normal",)))
    arguments = {
        "x": x,
        "residual": draw(specs(x.shape, values=("normal",))),
        "row_scale": draw(maybe(specs(x.shape[:-1], values=("normal",)))),
        "prenorm": draw(st.booleans()),
        "eps": draw(st.sampled_from((1e-5, 1e-3, 1.0))),
        **{name: draw(vector) for name in ("weight", "bias", "layer_scale")},
    }
    if kind == "layer_norm":
        arguments["norm_bias"] = draw(vector)
    options = draw(_mask_options(x.shape)) | draw(_mode()) | draw(_activation())
    return Call(f"dropout_add_{kind}", arguments | options)


# Other numbers are those of tests/noise.
_NOISE_NUMBERS = {
    "p": probabilities().map(lambda p: min(p, 0.99)),
    "temperature": st.sampled_from((0.1, 0.5, 2.0)),
    "beta": probabilities(),
}


@st.composite
def _noise(draw):
    call = draw(st.sampled_from(tuple(DRAWING.values())))
    x = draw(specs(shapes()))
    options = draw(_mask_options(x.shape)) | {
        key: draw(_NOISE_NUMBERS.get(key, st.just(value))) for key, value in call.arguments.items()
    }
    if "p" not in call.arguments:
        del options["p"]
    scalars = specs(st.sampled_from(((), (1,))), values=("normal",))
    tensors = {key: draw(specs(x.shape)) for key in call.elementwise[1:]}
    tensors |= {key: draw(scalars) for key in call.scalars}
    return Call(call.function, {"x": x, **tensors, **options})


@st.composite
def _drop_block(draw):
    shape = draw(shapes(least=3, elements=3000))
    arguments = {
        "x": draw(specs(shape)),
        "p": draw(probabilities()),
        "block_size": draw(st.sampled_from((1, 3, 5, 7, 51))),
        "shared_channels": draw(st.booleans()),
        "mode": draw(st.sampled_from(("inverted", "classic"))),
        "training": draw(st.booleans()),
        "rng_state": draw(states()),
    }
    return Call("drop_block", arguments)


@st.composite
def _embedding_dropout(draw):
    weight = draw(specs(shapes(least=2, most=2).filter(lambda shape: shape[0] > 0)))
    words = st.integers(0, weight.shape[0] - 1)
    arguments = {
        "input": Ints(tuple(draw(st.lists(words, max_size=40)))),
        "weight": weight,
        "p": draw(probabilities()),
        "training": draw(st.booleans()),
        "rng_state": draw(states()),
    }
    return Call("embedding_dropout", arguments)


@st.composite
def _attention(draw):
    heads, queries, keys, width = (draw(st.integers(1, size)) for size in (3, 40, 40, 17))
    dtypes = (draw(st.sampled_from(DTYPES)),)
    arguments = {
        name: draw(specs((2, heads, length, width), dtypes, values=("normal",)))
        for name, length in (("query", queries), ("key", keys), ("value", keys))
    }
    arguments |= {
        "dropout_p": draw(probabilities()),
        "is_causal": draw(st.booleans()),
        "rng_state": draw(states()),
    }
    return Call("scaled_dot_product_attention", arguments)


CALLS = {
    "dropout": _dropout(),
    "bias_act_dropout": _bias_act_dropout(),
    "bias_glu_dropout": _bias_glu_dropout(),
    "dropout_add_norm": _norm(),
    "noise": _noise(),
    "drop_block": _drop_block(),
    "embedding_dropout": _embedding_dropout(),
    "attention": _attention(),
}


# ---------------------------------------------------------------- expected results


def expected(call, arguments):
    """Returns the results of the reference as a tuple, in the precision of `arguments`.

    `arguments` are those of the call as tensors. `x` has the layout of the call, because the mask
    depends on it.
    """
    given, name = dict(arguments), call.function
    given.pop("inplace", None)
    x, bias, residual, p = (given.pop(key, None) for key in ("x", "bias", "residual", "p"))
    state, training = given.pop("rng_state"), given.get("training", True)
    if name == "dropout":
        return (reference.dropout(x, p, state, **given),)
    if name == "bias_act_dropout":
        activation = given.pop("activation")
        return (
            reference.bias_act_dropout(x, bias, p, activation, state, residual=residual, **given),
        )
    if name == "bias_glu_dropout":
        return (reference.bias_glu_dropout(x, bias, p, given.pop("activation"), state, **given),)
    if name.startswith("dropout_add_"):
        vectors = given.pop("weight"), given.pop("norm_bias", None)
        result = reference.dropout_add_norm(
            x, residual, *vectors, p, state, norm=name[len("dropout_add_") :], bias=bias, **given
        )
        return result if isinstance(result, tuple) else (result,)
    if name == "drop_block":
        if x.numel() == 0:  # the reference would divide by the number of elements
            return (x,)
        return (reference.drop_block(x, p, given.pop("block_size"), state, **given),)
    if name == "embedding_dropout":
        return (
            reference.embedding_dropout(
                given["input"], given["weight"], p, state, training=training
            ),
        )
    if name == "scaled_dot_product_attention":
        return (_attention_of(state, **given),)
    return (_noise_of(name, **{**arguments, "training": training}),)


def _noise_of(name, training, shared_dims=(), noise_shape=None, **given):
    if not training and NOISE[name].evaluation is None:
        return given["x"]
    if noise_shape is not None:
        shared_dims = reference.shared_dims_from_noise_shape(given["x"].shape, noise_shape)
    options = {} if training else {"training": False}
    return getattr(reference, name)(**given, **options, shared_dims=shared_dims)


def _attention_of(state, query, key, value, dropout_p, is_causal):
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    kept = reference.dropout_mask(scores.shape, dropout_p, state)
    return torch.where(kept, scores.softmax(-1) * reference.scale(dropout_p), 0.0) @ value
