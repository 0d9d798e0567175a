"""Tensors that are not dense floating-point numbers: the error names it; nothing is drawn."""

import functools
import re

import pytest
import torch

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing
from tests.noise.calls import DRAWING
from tests.tensor_kinds.nested_tensors import STATE

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

DENSE = torch.diag(torch.arange(1.0, 9.0))
VECTOR, MAPS = torch.ones(8), torch.ones(1, 1, 8, 8)
ONE = torch.tensor([[-1.0]])

# How a tensor becomes one of another kind, and whether it is its layout or its dtype that differs.
KINDS = {
    "sparse_coo": (torch.Tensor.to_sparse, "layout"),
    "sparse_csr": (torch.Tensor.to_sparse_csr, "layout"),
    "sparse_csc": (torch.Tensor.to_sparse_csc, "layout"),
    "mkldnn": (torch.Tensor.to_mkldnn, "layout"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.quint8), "dtype"),
    "complex": (lambda x: x.to(torch.complex64), "dtype"),
    "bool": (lambda x: x > 0, "dtype"),
    "int64": (torch.Tensor.long, "dtype"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "dtype"),
}


def norm(x=DENSE, residual=None, function=FF.dropout_add_layer_norm, **options):
    return function(x, residual, p=0.5, **options)


def attention(query=DENSE, key=DENSE, value=DENSE, attn_mask=None):
    return FF.scaled_dot_product_attention(query, key, value, attn_mask, 0.5)


def noise(call, argument, value):
    return call(call.tensors_of(DENSE.shape) | {argument: value})


# Of every function: (argument, what is passed if it is dense, the call).
CALLS = {
    "dropout": [
        ("x", DENSE, lambda x: FF.dropout(x, 0.5)),
        ("x", DENSE, lambda x: FF.dropout(x, 0.5, inplace=True)),
        ("x", DENSE, lambda x: FF.dropout(x, 0.5, shared_dims=(1,), mode="alpha")),
        ("x", DENSE, lambda x: FF.dropout(x, 0.5, rng_state=STATE)),
        ("x", DENSE, lambda x: FF.dropout(x, 0.5, False, mode="classic")),
        ("x", DENSE, lambda x: FF.dropout(x, 0.5, shard=fd.Shard((8, 16), (0, 8)))),
    ],
    "bias_act_dropout": [
        ("x", DENSE, lambda x: FF.bias_act_dropout(x, None, 0.5)),
        ("bias", VECTOR, lambda x: FF.bias_act_dropout(DENSE, x, 0.5)),
        ("residual", DENSE, lambda x: FF.bias_act_dropout(DENSE, None, 0.5, residual=x)),
    ],
    "bias_dropout_add": [
        ("x", DENSE, lambda x: FF.bias_dropout_add(x, None, DENSE, 0.5)),
        ("residual", DENSE, lambda x: FF.bias_dropout_add(DENSE, None, x, 0.5)),
    ],
    "bias_glu_dropout": [
        ("x", DENSE, lambda x: FF.bias_glu_dropout(x, None, 0.5)),
        ("bias", VECTOR, lambda x: FF.bias_glu_dropout(DENSE, x, 0.5)),
    ],
    "dropout_add_layer_norm": [
        ("x", DENSE, norm),
        ("residual", DENSE, lambda x: norm(residual=x)),
        ("weight", VECTOR, lambda x: norm(weight=x)),
        ("norm_bias", VECTOR, lambda x: norm(norm_bias=x)),
        ("bias", VECTOR, lambda x: norm(bias=x)),
        ("row_scale", VECTOR, lambda x: norm(row_scale=x)),
        ("layer_scale", VECTOR, lambda x: norm(layer_scale=x)),
    ],
    "dropout_add_rms_norm": [("x", DENSE, lambda x: norm(x, function=FF.dropout_add_rms_norm))],
    **{
        call.function: [
            (key, DENSE if key in call.elementwise else ONE, functools.partial(noise, call, key))
            for key in (*call.elementwise, *call.scalars)
        ]
        for call in DRAWING.values()
    },
    "drop_block": [("x", MAPS, lambda x: FF.drop_block(x, 0.5, 3))],
    "embedding_dropout": [
        ("weight", DENSE, lambda x: FF.embedding_dropout(torch.arange(3), x, 0.5)),
    ],
    "scaled_dot_product_attention": [
        ("query", DENSE, lambda x: attention(query=x)),
        ("key", DENSE, lambda x: attention(key=x)),
        ("value", DENSE, lambda x: attention(value=x)),
        ("attn_mask", DENSE, lambda x: attention(attn_mask=x)),
    ],
}
ALL = [
    pytest.param(function, argument, dense, call, id=f"{function}-{i}-{argument}")
    for function, calls in CALLS.items()
    for i, (argument, dense, call) in enumerate(calls)
]


def test_every_function_is_here():
    without_tensors = {"ACTIVATIONS", "MODES", "drop_block_rate", "dropout_mask"}
    assert set(CALLS) == set(FF.__all__) - without_tensors


@pytest.mark.parametrize(("function", "argument", "dense", "call"), ALL)
def test_the_error_names_what_differs(function, argument, dense, call):
    call(dense.clone())
    for kind, (make, what) in KINDS.items():
        # Compressed layouts are of matrices, and a mask of attention may be bool.
        if kind in ("sparse_csr", "sparse_csc") and dense.dim() != 2:
            continue
        if (argument, kind) == ("attn_mask", "bool"):
            continue
        x = make(dense)
        with drawing_nothing(), pytest.raises((RuntimeError, TypeError)) as caught:
            call(x)
        text = str(caught.value).split("\n")[0]
        assert re.match(rf"{function}: {argument} has {what} ", text), text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_without_dropping(kind):
    x = KINDS[kind][0](DENSE)
    with drawing_nothing():
        assert FF.dropout(x, 0.0) is x
        assert FF.gaussian_dropout(x, 0.0) is x
        for layer in (fd.Dropout(), fd.AlphaDropout(), fd.GaussianDropout(), fd.ConcreteDropout()):
            assert layer.eval()(x) is x


def test_indices_and_masks():
    words = torch.arange(3).to_sparse()
    with drawing_nothing(), pytest.raises(RuntimeError, match=r"^embedding_dropout: input has lay"):
        FF.embedding_dropout(words, DENSE, 0.5)
    with pytest.raises(TypeError, match=r"^dropout_mask: like has layout torch.sparse_coo"):
        FF.dropout_mask((8, 8), 0.5, STATE, like=DENSE.to_sparse())


META = {
    **{name: calls[0][1:] for name, calls in CALLS.items() if calls[0][0] == "x"},
    "bias_dropout_add": (DENSE, lambda x: FF.bias_dropout_add(x, x[0], x, 0.5)),
    **{call.function: (DENSE, call.of_x) for call in DRAWING.values()},
    "embedding_dropout": (DENSE, lambda x: FF.embedding_dropout((x * 0).long(), x, 0.5)),
    "scaled_dot_product_attention": (DENSE, lambda x: attention(x, x, x)),
}


@pytest.mark.parametrize("function", CALLS)
def test_meta_tensors(function):
    """Shapes and dtypes, and no number of the CPU's generator."""
    dense, call = META[function]
    with drawing_nothing():
        y = call(dense.to("meta"))
    wanted = call(dense)
    assert y.is_meta and (y.shape, y.dtype) == (wanted.shape, wanted.dtype)
