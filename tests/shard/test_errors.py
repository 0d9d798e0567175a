"""Shards that do not fit a call: the message, and that nothing is computed and nothing drawn."""

import pytest
import torch
from torch.distributed.tensor import Shard as Placement

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing
from tests.noise.calls import DRAWING
from tests.shard.calls import ARGUMENTS, CALLS, NORMS, STATE, every_call, tensors_of

FUNCTION = {
    **dict.fromkeys(("dropout_", "classic", "alpha"), "dropout"),
    **dict.fromkeys(("relu", "gelu", "channels"), "bias_act_dropout"),
    "add": "bias_dropout_add",
    "swiglu": "bias_glu_dropout",
    **{name: f"dropout_add_{name}" for name in NORMS},
    **{name: call.function for name, call in DRAWING.items()},
}
SHAPE = (4, 6)
BAD = {
    "more dimensions": (
        lambda: fd.Shard((8, 6, 2), (0, 0, 0)),
        ValueError,
        "shard has 3 dimensions, but the tensor has 2",
    ),
    "too near the end": (
        lambda: fd.Shard((8, 6), (5, 0)),
        ValueError,
        r"shard has shape \(8, 6\) and offsets \(5, 0\), which leaves 3 elements along dimension "
        "0, but the tensor has 4",
    ),
    "a smaller full tensor": (
        lambda: fd.Shard((4, 5), (0, 0)),
        ValueError,
        "leaves 5 elements along dimension 1, but the tensor has 6",
    ),
    "no shard": (lambda: Placement(0), TypeError, r"shard is Shard\(dim=0\), but expected a fused"),
    "numbers": (lambda: ((8, 6), (0, 0)), TypeError, "but expected a fused_dropout.Shard"),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("given", [{}, {"rng_state": STATE}], ids=["drawing", "state"])
@every_call
def test_what_does_not_fit(name, given, bad):
    make, error, message = BAD[bad]
    tensors = tensors_of(name, SHAPE, order=(0, 1))
    before = {key: value.detach().clone() for key, value in tensors.items()}
    with drawing_nothing(), pytest.raises(error) as caught:
        CALLS[name](tensors, shard=make(), **given)
    assert str(caught.value).startswith(f"{FUNCTION.get(name, name)}: shard ")
    assert caught.match(message)
    assert all(torch.equal(tensors[key], before[key]) for key in before)
    assert set(tensors) == set(ARGUMENTS.get(name, ("x",)))


@pytest.mark.parametrize("name", NORMS)
def test_rows_that_are_cut(name):
    tensors = tensors_of(name, SHAPE, order=(0, 1))
    message = f"dropout_add_{name}: shard has 12 elements along dimension -1, but x has 6"
    with drawing_nothing(), pytest.raises(ValueError, match=message):
        CALLS[name](tensors, shard=fd.Shard((4, 12), (0, 6)))


def test_gated_units_speak_of_the_result():
    """The shape of the input is too long by a factor of two."""
    x = torch.ones(4, 12)
    FF.bias_glu_dropout(x, shard=fd.Shard((4, 6), (0, 0)))
    with pytest.raises(ValueError, match=r"leaves 5 elements along dimension 1, but .* has 6"):
        FF.bias_glu_dropout(x, shard=fd.Shard((4, 5), (0, 0)))


def test_mask():
    with pytest.raises(ValueError, match=r"dropout_mask: shard has shape.*leaves 3 elements"):
        FF.dropout_mask((4, 6), 0.5, STATE, shard=fd.Shard((8, 6), (5, 0)))
    with pytest.raises(TypeError, match="dropout_mask: shard is 3, but expected"):
        FF.dropout_mask((4, 6), 0.5, STATE, shard=3)


def test_other_arguments_are_checked_as_without_a_shard():
    shard = fd.Shard((8, 6), (4, 0))
    x = torch.ones(4, 6)
    with drawing_nothing():
        with pytest.raises(IndexError, match="dropout: shared_dims has 2, but x has 2 dimensions"):
            FF.dropout(x, shared_dims=(2,), shard=shard)
        with pytest.raises(ValueError, match="dropout: shared_dims has dimension -2 twice"):
            FF.dropout(x, shared_dims=(0, -2), shard=shard)
        with pytest.raises(ValueError, match=r"noise_shape has 4 in dimension 0, but .* size 8"):
            FF.dropout(x, noise_shape=(4, 1), shard=shard)
        with pytest.raises(ValueError, match="only one of them"):
            FF.dropout(x, shared_dims=(1,), noise_shape=(8, 1), shard=shard)
        with pytest.raises(RuntimeError, match="bias_dropout_add: bias has 5 elements"):
            FF.bias_dropout_add(x, torch.ones(5), x, shard=shard)
        with pytest.raises(RuntimeError, match="rng_state has 3 elements"):
            FF.dropout(x, rng_state=torch.zeros(3, dtype=torch.int64), shard=shard)
        with pytest.raises(RuntimeError, match="leaf"):
            FF.dropout(x.requires_grad_(), inplace=True, shard=shard)


@pytest.mark.parametrize(
    "shard, text",
    [
        (fd.Shard((8, 6, 2), (0, 0, 0)), "dropout: shard has 3 dimensions, but the tensor has 2"),
        (fd.Shard((8, 6), (5, 0)), "which leaves 3 elements along dimension 0, but the tensor has"),
        (3, "dropout: shard is 3, but expected a fused_dropout.Shard"),
    ],
)
def test_messages_under_compile(shard, text):
    torch.compiler.reset()
    call = torch.compile(lambda x: FF.dropout(x, shard=shard), backend="eager", fullgraph=True)
    with drawing_nothing(), pytest.raises(Exception, match=text):
        call(torch.ones(4, 6))
