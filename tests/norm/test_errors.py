"""Bad input of the normalised operators: what the errors say; nothing is drawn."""

import pytest
import torch

import fused_dropout as fd
from tests.row_operators.errors import *  # noqa: F403
from tests.row_operators.errors import NORMS, R, X, check

every_norm = pytest.mark.parametrize("name", NORMS)


@pytest.mark.parametrize("argument", ["weight", "layer_scale"])
@every_norm
def test_vectors_of_the_wrong_length(name, argument):
    parts = [f"{argument} has 5 elements", "x has 6 along dimension -1"]
    check(name, RuntimeError, parts, **{argument: torch.zeros(5)})
    check(name, RuntimeError, [f"{argument} has 2 dimensions"], **{argument: torch.zeros(1, 6)})


def test_a_norm_bias_of_the_wrong_length():
    parts = ["norm_bias has 7 elements", "x has 6 along dimension -1"]
    check("dropout_add_layer_norm", RuntimeError, parts, norm_bias=torch.zeros(7))


@pytest.mark.parametrize("shape", [(4, 5), (3, 6), (6,), (4, 6, 1), (1, 6)], ids=str)
@every_norm
def test_a_residual_of_another_shape(name, shape):
    check(name, RuntimeError, ["residual has"], residual=torch.zeros(shape))
    if len(shape) == 2:
        parts = [f"residual has shape {list(shape)}", "x has [4, 6]"]
        check(name, RuntimeError, parts, residual=torch.zeros(shape))


@pytest.mark.parametrize("shape", [(6,), (4, 1), (4, 6), ()], ids=str)
@every_norm
def test_a_row_scale_of_another_shape(name, shape):
    parts = [f"row_scale has shape {list(shape)}", "expected [4]"]
    check(name, RuntimeError, parts, row_scale=torch.zeros(shape))


@pytest.mark.parametrize("eps", [-1e-5, float("nan"), -float("inf")])
@every_norm
def test_eps(name, eps):
    check(name, ValueError, ["eps is", "expected a number from 0 on"], eps=eps)


def test_the_operator_checks_its_arguments():
    options = (0.5, None, "identity", None, None, "inverted", True, [], None, 0)
    state = torch.tensor([1, 0])
    norm = torch.ops.fused_dropout.dropout_add_norm
    with pytest.raises(ValueError, match="norm is 'batch_norm'"):
        norm(X, None, None, None, None, None, None, state, "batch_norm", 1e-5, False, *options)
    with pytest.raises(ValueError, match="norm_bias is given, but RMSNorm has none"):
        norm(X, None, None, None, None, None, R[0], state, "rms_norm", 1e-5, False, *options)
    with pytest.raises(ValueError, match="rng_state is None"):
        norm(X, None, None, None, None, None, None, None, "rms_norm", 1e-5, False, *options)


@pytest.mark.parametrize("module", [fd.DropoutAddLayerNorm, fd.DropoutAddRMSNorm])
@pytest.mark.parametrize("affine", [True, False])
def test_modules_of_another_width(module, affine):
    for shape in (6, (2, 6)):
        layer = module(shape, elementwise_affine=affine)
        with pytest.raises(RuntimeError, match=r"x has shape \(3, 4\), but normalized_shape"):
            layer(torch.zeros(3, 4), torch.zeros(3, 4))
