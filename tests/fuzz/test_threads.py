"""Calls large enough for several threads and several partial sums, for the sanitizers."""

import pytest

from tests.fuzz.check import check_call
from tests.fuzz.functions import Call
from tests.fuzz.tensors import Ints, Spec

DRAWING = {"p": 0.3, "rng_state": Ints((1, 8)), "training": True}
ROWS, WIDTH = (2000, 150), Spec((150,), seed=1)
LARGE = {
    "rows": Call(
        "bias_act_dropout",
        {"x": Spec(ROWS), "bias": WIDTH, "activation": "identity", **DRAWING},
    ),
    "channels": Call(
        "bias_act_dropout",
        {
            "x": Spec((20, 5, 60, 50)),
            "bias": Spec((5,)),
            "bias_dim": 1,
            "activation": "identity",
            **DRAWING,
        },
    ),
    "norm": Call(
        "dropout_add_layer_norm",
        {
            "x": Spec(ROWS),
            "residual": Spec(ROWS, seed=2),
            "weight": WIDTH,
            "norm_bias": WIDTH,
            "bias": WIDTH,
            **DRAWING,
        },
    ),
    "gated": Call(
        "bias_glu_dropout",
        {"x": Spec((2000, 100)), "bias": Spec((100,)), "activation": "mish", **DRAWING},
    ),
    "concrete": Call(
        "concrete_dropout",
        {
            "x": Spec((300, 400)),
            "logit": Spec(()),
            "temperature": 0.5,
            "rng_state": Ints((1, 8)),
            "training": True,
        },
    ),
    "drop_block": Call(
        "drop_block", {"x": Spec((4, 8, 60, 50)), "block_size": 7, **DRAWING, "p": 0.1}
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_calls(name):
    check_call(LARGE[name])
