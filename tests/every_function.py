"""A valid call of every public function, for rules that hold for all of them.

A call is a name in CALLS. `tensors_of` makes its tensors, a dict by argument, and `run` passes them
to the function; all have gradients. Options that say how to draw (`rng_state`, `generator`) go to
`run`.
"""

from dataclasses import dataclass, field

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import state
from tests.noise.calls import DRAWING

STATE = state()
P = 0.4


@dataclass(frozen=True)
class Call:
    function: str
    shapes: dict  # of the tensors by argument; the batch comes first in those that have one
    options: dict = field(default_factory=dict)
    batched: tuple = ("x",)  # arguments whose first dimension is the batch

    def __call__(self, tensors, **options):
        """The results, a tuple."""
        result = getattr(FF, self.function)(**tensors, **self.options, **options)
        return result if isinstance(result, tuple) else (result,)


ROWS, WIDTH = 4, 6
X, VECTOR = (ROWS, WIDTH), (WIDTH,)
HEADS = (ROWS, 2, 5, 4)
NORM = {"x": X, "residual": X, "weight": VECTOR, "bias": VECTOR, "layer_scale": VECTOR}
CALLS = {
    "dropout": Call("dropout", {"x": X}, {"p": P}),
    "dropout_shared": Call("dropout", {"x": X}, {"p": P, "shared_dims": (1,)}),
    "dropout_alpha": Call("dropout", {"x": X}, {"p": P, "mode": "alpha"}),
    "bias_act_dropout": Call(
        "bias_act_dropout",
        {"x": X, "bias": VECTOR, "residual": X},
        {"p": P, "activation": "gelu"},
        ("x", "residual"),
    ),
    "bias_act_dropout_relu": Call(
        "bias_act_dropout", {"x": X, "bias": VECTOR}, {"p": P, "activation": "relu"}
    ),
    "bias_dropout_add": Call(
        "bias_dropout_add", {"x": X, "bias": VECTOR, "residual": X}, {"p": P}, ("x", "residual")
    ),
    "bias_glu_dropout": Call(
        "bias_glu_dropout", {"x": (ROWS, 2 * WIDTH), "bias": (2 * WIDTH,)}, {"p": P}
    ),
    "dropout_add_layer_norm": Call(
        "dropout_add_layer_norm", {**NORM, "norm_bias": VECTOR}, {"p": P}, ("x", "residual")
    ),
    "dropout_add_layer_norm_prenorm": Call(
        "dropout_add_layer_norm",
        {**NORM, "norm_bias": VECTOR},
        {"p": P, "prenorm": True, "activation": "gelu"},
        ("x", "residual"),
    ),
    "dropout_add_rms_norm": Call("dropout_add_rms_norm", NORM, {"p": P}, ("x", "residual")),
    **{
        call.function: Call(
            call.function,
            dict.fromkeys(call.elementwise, X) | dict.fromkeys(call.scalars, ()),
            call.arguments,
            call.elementwise,
        )
        for call in DRAWING.values()
    },
    "drop_block": Call("drop_block", {"x": (ROWS, 3, 7, 7)}, {"p": P, "block_size": 3}),
    "embedding_dropout": Call(
        "embedding_dropout", {"weight": (9, WIDTH)}, {"p": P, "input": torch.arange(9)}, ()
    ),
    "scaled_dot_product_attention": Call(
        "scaled_dot_product_attention",
        {"query": HEADS, "key": HEADS, "value": HEADS},
        {"dropout_p": P},
        ("query", "key", "value"),
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)
BATCHED = [name for name in CALLS if CALLS[name].batched]
every_batched_call = pytest.mark.parametrize("name", BATCHED)


def tensors_of(name, rows=ROWS, dtype=torch.float32, seed=0):
    """Leaf tensors; the batch has `rows` rows."""
    generator = torch.Generator().manual_seed(seed)
    call = CALLS[name]
    tensors = {}
    for argument, shape in call.shapes.items():
        sizes = (rows, *shape[1:]) if argument in call.batched else shape
        tensors[argument] = torch.randn(sizes, generator=generator).to(dtype).requires_grad_()
    return tensors


def run(name, tensors, **options):
    return CALLS[name](tensors, **options)


def upstream_of(results, seed=1):
    """A gradient for each result."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one.shape, generator=generator).to(one.dtype) for one in results]


def gradients_of(results, tensors, upstream):
    """The gradients of all tensors by argument; None if there is none."""
    found = torch.autograd.grad(results, list(tensors.values()), upstream, allow_unused=True)
    return dict(zip(tensors, found, strict=True))


def assert_close(ours, theirs, **tolerance):
    """Compares two sequences of tensors or None."""
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **tolerance)
