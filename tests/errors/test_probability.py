"""Errors of p and of the activation."""

import math

import pytest
import torch

import fused_dropout.functional as FF
from tests.errors.bad_input import X, check, check_named, every_function
from tests.module_helpers import fixed_state

with_options = pytest.mark.parametrize("name", ["bias_act_dropout"])


@every_function
@pytest.mark.parametrize("p", [-0.1, 1.5, 2, -math.inf, math.nan])
@pytest.mark.parametrize("training", [True, False])
def test_p_out_of_range(name, p, training):
    text = check(name, ValueError, [], p=p, training=training)
    assert text == f"dropout probability has to be between 0 and 1, but got {p}"


@every_function
@pytest.mark.parametrize("p", [-0.5, 1.5, math.nan])
def test_p_out_of_range_in_a_tensor(name, p):
    check(name, ValueError, ["between 0 and 1, but got", p], p=torch.tensor(p))


@every_function
@pytest.mark.parametrize("p", ["0.5", None, [0.5]])
def test_p_is_no_number(name, p):
    check(name, TypeError, [], p=p)


@every_function
def test_p_requires_grad(name):
    p = torch.tensor(0.5, requires_grad=True)
    check(name, TypeError, ["probability p", "constant", "requires grad"], p=p)


@every_function
def test_p_has_a_dimension(name):
    check(name, TypeError, ["probability p", "scalar", "(3,)"], p=torch.rand(3))


@every_function
@pytest.mark.parametrize("p", [-0.5, math.nan, 1.5])
def test_operators_check_p_too(name, p):
    operator = torch.ops.fused_dropout
    x = X.clone()
    with pytest.raises(ValueError, match=f"but got {p}"):
        if name == "dropout_":
            operator.dropout_(x, fixed_state(), p, None, "inverted", True, [], None, 0)
        else:
            operator.bias_act_dropout(
                x,
                None,
                None,
                fixed_state(),
                p,
                None,
                "relu",
                None,
                None,
                -1,
                "inverted",
                True,
                [],
                None,
                0,
            )
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "p", [torch.tensor(0.5), torch.tensor(1), torch.tensor([0.5], dtype=torch.float64)]
)
def test_tensor_p_of_the_operators(p):
    """Python converts it for them."""
    with pytest.raises(TypeError, match=r"dropout_: p .*expected a 0-d float64 tensor on the CPU"):
        torch.ops.fused_dropout.dropout_(
            X.clone(), fixed_state(), 0.5, p, "inverted", True, [], None, 0
        )


@with_options
@pytest.mark.parametrize("activation", ["GELU", "swish", ""])
@pytest.mark.parametrize("options", [{}, {"p": 0.0}, {"training": False}])
def test_unknown_activation_lists_the_known(name, activation, options):
    check_named(
        name,
        ValueError,
        [f"activation is '{activation}'", "expected one of", *FF.ACTIVATIONS],
        activation=activation,
        **options,
    )


@with_options
def test_activation_is_no_name(name):
    check(name, TypeError, [], activation=torch.nn.GELU())


@with_options
@pytest.mark.parametrize("activation", [one for one in FF.ACTIVATIONS if one != "leaky_relu"])
def test_negative_slope_belongs_to_leaky_relu(name, activation):
    check_named(
        name,
        ValueError,
        ["negative_slope is 0.2", f"'{activation}'"],
        activation=activation,
        negative_slope=0.2,
    )


@with_options
@pytest.mark.parametrize("activation", [one for one in FF.ACTIVATIONS if one != "elu"])
def test_alpha_belongs_to_elu(name, activation):
    check_named(
        name, ValueError, ["alpha is 0.2", f"'{activation}'"], activation=activation, alpha=0.2
    )
