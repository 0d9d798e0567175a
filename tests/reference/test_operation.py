"""The operation by the reference, element by element."""

import itertools
import math

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.activation_oracle import FORMULAS
from tests.reference.known import STATE, permuted

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def test_every_activation_has_a_formula():
    assert set(reference.ACTIVATIONS) == set(FORMULAS) == set(FF.ACTIVATIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_by_its_formula(name):
    x = torch.linspace(-9, 9, 361, dtype=torch.float64)
    expected = torch.tensor([FORMULAS[name](value) for value in x.tolist()], dtype=torch.float64)
    actual = reference.activation(name, x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_activation_parameters():
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    assert reference.activation("leaky_relu", x, negative_slope=0.25).tolist() == [-0.5, 3]
    assert reference.activation("leaky_relu", x, negative_slope=0.0).tolist() == [0, 3]
    expected = pytest.approx([2.5 * math.expm1(-2), 3])
    assert reference.activation("elu", x, alpha=2.5).tolist() == expected
    y = reference.bias_act_dropout(x, None, 0, "leaky_relu", None, negative_slope=0.25)
    assert y.tolist() == [-0.5, 3]
    assert reference.bias_act_dropout(x, None, 0, "elu", None, alpha=2.5).tolist() == expected


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_operation_element_by_element(mode, p):
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, 3, 5, 7, dtype=torch.float64, generator=generator)
    bias = torch.randn(5, dtype=torch.float64, generator=generator)
    y = reference.bias_act_dropout(
        x, bias, p, "silu", STATE, residual=residual, bias_dim=1, mode=mode
    )
    a, c, d = reference.constants(p, mode)
    kept = reference.dropout_mask((105,), p, STATE).tolist()
    assert 0 < sum(kept) < 105
    for j, (n, channel, m) in enumerate(itertools.product(range(3), range(5), range(7))):
        v = FORMULAS["silu"](x[n, channel, m].item() + bias[channel].item())
        expected = residual[n, channel, m].item() + (a * v + c if kept[j] else d)
        assert y[n, channel, m].item() == pytest.approx(expected, rel=1e-13)


def test_bias_along_the_last_dimension():
    x = torch.zeros(3, 4)
    bias = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = reference.bias_act_dropout(x, bias, 0, "identity", None)
    assert torch.equal(y, bias.expand(3, 4))
    y = reference.bias_act_dropout(x, bias[:3], 0, "identity", None, bias_dim=0)
    assert torch.equal(y, bias[:3, None].expand(3, 4))


@pytest.mark.parametrize("mode", reference.MODES)
def test_evaluation(mode):
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    for p in (0, 0.25, 0.5):
        y = reference.bias_act_dropout(x, None, p, "tanh", None, training=False, mode=mode)
        expected = torch.tanh(x) * ((1 - p) if mode == "classic" else 1)
        assert torch.equal(y, expected)
    y = reference.dropout(x, 1, None, training=False, mode=mode)
    assert torch.equal(y, torch.zeros(50) if mode == "classic" else x)


def test_evaluation_in_classic_mode_gives_the_mean():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    y = reference.dropout(x, 0.5, None, training=False, mode="classic")
    assert y.tolist() == [0.5, 1, 1.5, 2]
    y = reference.dropout(torch.ones(1), 0.1, None, training=False, mode="classic")
    assert y.item() == torch.tensor(58982 / 65536).item()


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("p", [0, 1e-10])
def test_nothing_dropped_changes_no_bit(mode, p):
    x = torch.tensor([-0.0, 0.0, 1.1, -math.inf, 1e-45])
    y = reference.dropout(x, p, None, mode=mode)
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


@pytest.mark.parametrize("mode", ["inverted", "classic"])
def test_a_kept_negative_zero_stays_negative(mode):
    y = reference.dropout(torch.full((64,), -0.0), 0.5, STATE, mode=mode)
    assert torch.equal(y.signbit(), reference.dropout_mask((64,), 0.5, STATE))


@pytest.mark.parametrize("mode", reference.MODES)
@pytest.mark.parametrize("training", [True, False])
def test_keeping_nothing_writes_zeros(mode, training):
    x = torch.tensor([1.0, math.nan, math.inf, -2.0], requires_grad=True)
    y = reference.dropout(x, 1 - 1e-10, None, training=training, mode=mode)
    if training or mode == "classic":
        assert y.tolist() == [0, 0, 0, 0]
        y.sum().backward()
        assert x.grad.tolist() == [0, 0, 0, 0]
    else:
        assert torch.equal(y, x) or y.isnan().sum() == 1


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mode", reference.MODES)
def test_dropped_nan_and_inf_do_not_leak(name, mode):
    keep = reference.dropout_mask((6, 8), 0.5, STATE)
    _, _, d = reference.constants(0.5, mode)
    bias = torch.zeros(8, requires_grad=True)
    for bad in (math.nan, math.inf, -math.inf):
        x = torch.where(keep, torch.tensor(0.7), bad).requires_grad_()
        y = reference.bias_act_dropout(x, bias, 0.5, name, STATE, mode=mode)
        gradients = torch.autograd.grad(y.sum(), (x, bias))
        assert (y[~keep] == torch.tensor(d)).all() and y.isfinite().all()
        assert (gradients[0][~keep] == 0).all() and (gradients[0][keep] > 0).all()
        assert gradients[1].isfinite().all()


def test_kept_nan_stays():
    keep = reference.dropout_mask((64,), 0.5, STATE)
    y = reference.dropout(torch.full((64,), math.nan), 0.5, STATE)
    assert torch.equal(y.isnan(), keep)


@pytest.mark.parametrize("shape", [(16, 40), (2, 5, 8, 8)])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_gradients_use_the_mask_of_the_forward_pass(shape, p):
    keep = reference.dropout_mask(shape, p, STATE)
    x = torch.zeros(shape, requires_grad=True)
    bias = torch.zeros(shape[1], requires_grad=True)
    residual = torch.zeros(shape, requires_grad=True)
    upstream = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = reference.bias_act_dropout(x, bias, p, "identity", STATE, residual=residual, bias_dim=1)
    y.backward(upstream)
    expected = torch.where(keep, upstream * torch.tensor(65536 / reference.keep_count(p)), 0)
    assert torch.equal(x.grad, expected)
    assert torch.equal(residual.grad, upstream)
    other_dims = [dim for dim in range(len(shape)) if dim != 1]
    torch.testing.assert_close(bias.grad, expected.sum(other_dims))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("mode", reference.MODES)
def test_gradcheck(name, mode):
    generator = torch.Generator().manual_seed(1)
    x, residual = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    bias = torch.randn(3, dtype=torch.float64, generator=generator)

    def operation(x, bias, residual):
        return reference.bias_act_dropout(
            x, bias, 0.3, name, STATE, residual=residual, shared_dims=(0,), mode=mode
        )

    inputs = [tensor.requires_grad_() for tensor in (x, bias, residual)]
    assert torch.autograd.gradcheck(operation, inputs)


@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("residual_dtype", DTYPES)
@pytest.mark.parametrize("bias_dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_and_one_rounding(x_dtype, residual_dtype, bias_dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual = torch.randn(2, 64, 33, dtype=torch.float64, generator=generator)
    x, residual = x.to(x_dtype), residual.to(residual_dtype)
    bias = torch.randn(33, dtype=torch.float64, generator=generator).to(bias_dtype)
    y = reference.bias_act_dropout(x, bias, 0.1, "relu", STATE, residual=residual)
    assert y.dtype == torch.promote_types(x_dtype, residual_dtype)

    branch = reference.bias_act_dropout(x.double(), bias, 0.1, "relu", STATE)
    exact = residual.double() + branch
    wide = torch.float64 if x_dtype == torch.float64 else torch.float32
    half_ulp = torch.finfo(y.dtype).eps / 2
    bound = half_ulp * exact.abs() + 2 * torch.finfo(wide).eps * (1 + branch.abs() + exact.abs())
    assert ((y.double() - exact).abs() <= bound).all()
    assert reference.bias_act_dropout(x, bias, 0.1, "relu", STATE).dtype == x_dtype


def test_layout_of_the_input_decides_the_mask():
    x = torch.ones(2, 6, 4, 4)
    for like in (
        x,
        x.to(memory_format=torch.channels_last),
        torch.ones_like(permuted(x.shape, (1, 0, 3, 2))),
    ):
        y = reference.dropout(like, 0.5, STATE)
        mask = reference.dropout_mask(x.shape, 0.5, STATE, like=like)
        assert torch.equal(y, 2.0 * mask)
        y = reference.dropout(like[:, 1:], 0.5, STATE, shared_dims=(0,), mask_offset=12345)
        index = reference.mask_index(like[:, 1:], (0,)) + 12345
        assert torch.equal(y, 2.0 * (reference.draws(index, STATE) < 32768))


def test_bad_arguments():
    x = torch.ones(4, 6)
    with pytest.raises(ValueError, match=r"'swish'.*expected one of identity, relu"):
        reference.bias_act_dropout(x, None, 0.5, "swish", STATE)
    with pytest.raises(ValueError, match="inverted, classic, alpha"):
        reference.dropout(x, 0.5, STATE, mode="beta")
    with pytest.raises(ValueError, match=r"bias has shape .5,., but x has 6 elements"):
        reference.bias_act_dropout(x, torch.ones(5), 0.5, "relu", STATE)
    with pytest.raises(ValueError, match="bias has shape"):
        reference.bias_act_dropout(x, torch.ones(1), 0.5, "relu", STATE)
    with pytest.raises(IndexError, match="out of range"):
        reference.bias_act_dropout(x, torch.ones(6), 0.5, "relu", STATE, bias_dim=2)
