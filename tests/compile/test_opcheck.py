"""The schemas and fake kernels of the operators."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.compile.compiling import STATE, channels_last, tensor, with_gradient
from tests.module_helpers import drawing_nothing

OPERATORS = torch.ops.fused_dropout
OPTIONS = {
    "p": 0.4,
    "p_tensor": None,
    "activation": "gelu",
    "negative_slope": None,
    "alpha": None,
    "bias_dim": -1,
    "mode": "inverted",
    "training": True,
    "shared_dims": [],
    "mask_strides": None,
    "mask_offset": 0,
}
TENSOR_P = torch.tensor(0.25, dtype=torch.float64)


def forward(x, bias=None, residual=None, state=STATE, **changes):
    """The arguments of the forward operator."""
    return x, bias, residual, state, *{**OPTIONS, **changes}.values()


X = tensor(4, 6, grad=True)
BIAS = tensor(6, grad=True)
FORWARD = {
    "dropout": forward(X, activation="identity"),
    "no gradient": forward(tensor(4, 6)),
    "bias": forward(X, BIAS),
    "residual": forward(X, tensor(6), tensor(4, 6, grad=True), activation="relu"),
    "relu": forward(X, BIAS, activation="relu"),
    "leaky_relu": forward(tensor(5, grad=True), activation="leaky_relu", negative_slope=0.3),
    "elu": forward(tensor(5, grad=True), activation="elu", alpha=0.5),
    "evaluation": forward(X, tensor(6), state=None, training=False),
    "classic evaluation": forward(tensor(4, 6), state=None, training=False, mode="classic"),
    "all dropped": forward(X, state=None, p=1.0),
    "alpha": forward(X, mode="alpha"),
    "shared": forward(tensor(2, 3, 4, grad=True), shared_dims=[1, 2]),
    "strides": forward(tensor(3, 4), mask_strides=[8, 1], mask_offset=5),
    "tensor p": forward(X, BIAS, p_tensor=TENSOR_P),
    "channels last": forward(channels_last(2, 3, 4, 5, grad=True), tensor(3), bias_dim=1),
    "not dense": forward(tensor(6, 8)[::2, 1:].requires_grad_()),
    "expanded": forward(tensor(6, 1).expand(6, 4)),
    "empty": forward(tensor(0, 6, grad=True), BIAS),
    "scalar": forward(torch.tensor(1.5, requires_grad=True)),
    "bf16": forward(tensor(4, 6, grad=True, dtype=torch.bfloat16), BIAS, tensor(4, 6, grad=True)),
    "fp64": forward(tensor(4, 6, grad=True, dtype=torch.float64)),
}


@pytest.mark.parametrize("case", FORWARD)
def test_opcheck_forward(case):
    opcheck(OPERATORS.bias_act_dropout.default, FORWARD[case])


def backward(
    dy,
    input=None,
    bias=None,
    state=STATE,
    *,
    from_output=False,
    strides=None,
    dtype=torch.float32,
    bias_dtype=None,
    mask=(True, False),
    **changes,
):
    """The arguments of the backward operator."""
    strides = strides or list(torch.empty(dy.shape).stride())
    arguments = dy, input, bias, state, *{**OPTIONS, **changes}.values()
    return *arguments, from_output, strides, dtype, bias_dtype, list(mask)


DY, INPUT = tensor(4, 6), tensor(4, 6)
BOTH = {"bias_dtype": torch.float32, "mask": (True, True)}
BACKWARD = {
    "dropout": backward(DY, activation="identity"),
    "gelu": backward(DY, INPUT),
    "bias": backward(DY, INPUT, tensor(6), **BOTH),
    "bias only": backward(DY, INPUT, tensor(6), bias_dtype=torch.float64, mask=(False, True)),
    "output": backward(DY, INPUT, activation="relu", from_output=True, **BOTH),
    "differentiable": backward(tensor(4, 6, grad=True), X, BIAS, **BOTH),
    "wide": backward(DY, INPUT.bfloat16(), dtype=torch.bfloat16),
    "expanded": backward(tensor(6).expand(4, 6), INPUT),
    "all dropped": backward(DY, state=None, p=1.0, activation="identity"),
    "empty": backward(tensor(0, 6), tensor(0, 6), **BOTH),
    "transposed": backward(DY, activation="identity", strides=[1, 4]),
    "tensor p": backward(DY, activation="identity", p_tensor=TENSOR_P),
}


@pytest.mark.parametrize("case", BACKWARD)
def test_opcheck_backward(case):
    opcheck(OPERATORS.bias_act_dropout_backward.default, BACKWARD[case])


def inplace(x, state=STATE, **changes):
    """The arguments of the operator in place."""
    names = ("p", "p_tensor", "mode", "training", "shared_dims", "mask_strides", "mask_offset")
    values = {**OPTIONS, **changes}
    return x, state, *(values[name] for name in names)


INPLACE = {
    "dense": inplace(tensor(4, 6)),
    "differentiable": inplace(X),
    "classic evaluation": inplace(tensor(4, 6), None, mode="classic", training=False),
    "all dropped": inplace(tensor(4, 6), None, p=1.0, mode="alpha"),
    "shared": inplace(tensor(4, 6), mode="alpha", shared_dims=[-1]),
    "strides": inplace(tensor(4, 6), mask_strides=[12, 2], mask_offset=3),
    "not dense": inplace(tensor(6, 8)[::2, 1:]),
    "tensor p": inplace(tensor(4, 6), p_tensor=TENSOR_P),
}


@pytest.mark.parametrize("case", INPLACE)
def test_opcheck_inplace(case):
    x, *rest = INPLACE[case]
    # Autograd forbids what is tested where x is a leaf.
    x = (with_gradient(x) * 1) if x.requires_grad else x.clone()
    opcheck(OPERATORS.dropout_.default, (x, *rest))


@pytest.mark.parametrize(
    "arguments",
    [
        (STATE, [4, 6], [6, 1], 0.4, [], None, 0),
        (STATE, [4, 6], [1, 4], 0.4, [1], None, 7),
        (STATE, [4, 6], [1, 4], 0.4, [], [0, 1], 7),
        (STATE, [0, 6], [6, 1], 0.4, [], None, 0),
        (STATE, [], [], 0.4, [], None, 0),
    ],
)
def test_opcheck_mask(arguments):
    opcheck(OPERATORS.dropout_mask.default, arguments)


def test_opcheck_draw():
    opcheck(OPERATORS.draw_rng_state.default, (torch.empty(2, dtype=torch.int64),))
    opcheck(OPERATORS.draw_rng_state.default, (tensor(3), torch.tensor(0.5, dtype=torch.float64)))


def test_only_drawing_operators_are_random():
    def tagged(name):
        return torch.Tag.nondeterministic_seeded in getattr(OPERATORS, name).default.tags

    pure = ["bias_act_dropout", "bias_act_dropout_backward", "dropout_", "dropout_mask"]
    assert [name for name in ["draw_rng_state", *pure] if tagged(name)] == ["draw_rng_state"]


def metadata(x):
    """Without the strides of dimensions of size 1: `torch.empty_like` itself gives others there."""
    strides = [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]
    return x.shape, strides, x.dtype, x.device


@pytest.mark.parametrize("case", FORWARD)
def test_fake_tensors_have_shape_strides_and_dtype(case):
    arguments = FORWARD[case]
    real = OPERATORS.bias_act_dropout(*arguments)
    with FakeTensorMode() as mode:
        fakes = [
            mode.from_tensor(one) if isinstance(one, torch.Tensor) else one for one in arguments
        ]
        fake = OPERATORS.bias_act_dropout(*fakes)
    assert metadata(fake) == metadata(real)
    assert fake.requires_grad == real.requires_grad
    if fake.requires_grad:
        with mode:
            fake.backward(torch.empty_like(fake))
        for one in fakes[:3]:
            if one is not None and one.requires_grad:
                assert one.grad.shape == one.shape


LAYOUTS = {
    "contiguous": tensor(3, 4, 5),
    "channels last": channels_last(2, 3, 4, 5),
    "permuted": tensor(3, 4, 5).permute(2, 0, 1),
    "sliced": tensor(3, 4, 5)[:, 1:],
    "permuted slice": tensor(3, 4, 5).permute(2, 0, 1)[1:, :, ::2],
    "channels last slice": channels_last(2, 3, 4, 5)[:, :, 1:],
    "expanded": tensor(3, 1, 5).expand(3, 4, 5),
    "size one": tensor(3, 1, 5).transpose(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual", [False, True])
def test_fake_public_functions(layout, residual):
    x = LAYOUTS[layout]

    def calls(x):
        other = torch.zeros_like(x, dtype=torch.float64) if residual else None
        bias = torch.zeros(x.shape[1], dtype=x.dtype)
        yield FF.dropout(x)
        yield FF.dropout(x, shared_dims=(0,), mode="alpha")
        yield FF.bias_act_dropout(x, bias, bias_dim=1, residual=other)
        yield FF.bias_act_dropout(x, bias, bias_dim=1, residual=other, training=False)
        yield FF.bias_act_dropout(x, bias, 1.0, bias_dim=1, residual=other)

    wanted = list(calls(x))
    with FakeTensorMode() as mode:
        fakes = list(calls(mode.from_tensor(x)))
    for fake, real in zip(fakes, wanted, strict=True):
        assert metadata(fake) == metadata(real)
    assert wanted[0].stride() == torch.empty_like(x).stride()


def test_fake_draws_nothing():
    with drawing_nothing(), FakeTensorMode():
        y = FF.dropout(torch.empty(4, 6))
        state = fd.new_rng_state()
    assert y.shape == (4, 6)
    assert (state.shape, state.dtype) == ((2,), torch.int64)
