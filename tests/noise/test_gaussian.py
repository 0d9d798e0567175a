"""Gaussian dropout: its probability, which is below one and may be a tensor."""

import pytest
import torch
from torch.library import opcheck

import fused_dropout as fd
import fused_dropout.functional as FF
from tests.module_helpers import drawing_nothing
from tests.noise.calls import CALLS
from tests.noise.noise_call import STATE

GAUSSIAN = CALLS["gaussian"]
X = torch.randn(4, 6)


def test_no_noise():
    with drawing_nothing():
        assert FF.gaussian_dropout(X, 0.0) is X


def test_state_dict_and_repr():
    assert not fd.GaussianDropout().state_dict()
    assert repr(fd.GaussianDropout(0.25)) == "GaussianDropout(p=0.25)"


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), 1, 1.0, torch.tensor(1.0)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_probabilities(p, training):
    with drawing_nothing(), pytest.raises(ValueError, match=r"but (got|expected)"):
        FF.gaussian_dropout(X, p, training)
    with pytest.raises(ValueError, match=r"but (got|expected)"):
        fd.GaussianDropout(p)
    module = fd.GaussianDropout(0.5).train(training)
    module.p = p
    with drawing_nothing(), pytest.raises(ValueError, match=r"but (got|expected)"):
        module(X)


def test_probability_tensors():
    with pytest.raises(TypeError, match="requires grad"):
        FF.gaussian_dropout(X, torch.tensor(0.5, requires_grad=True))
    with pytest.raises(TypeError, match="is a scalar"):
        FF.gaussian_dropout(X, torch.tensor([0.5]))


def test_the_operator_checks_p():
    with pytest.raises(ValueError, match="p is 1, but expected less than 1"):
        GAUSSIAN.operator({"x": X}, p=1.0)


def test_opcheck_of_a_tensor_p():
    p = torch.tensor(0.25, dtype=torch.float64)
    opcheck(*GAUSSIAN.operator_call({"x": X}, p_tensor=p))


def test_a_tensor_p_needs_no_new_graph():
    x = torch.randn(100, requires_grad=True)
    call = torch.compile(
        lambda p: FF.gaussian_dropout(x, p, rng_state=STATE), backend="aot_eager", fullgraph=True
    )
    call(torch.tensor(0.5, dtype=torch.float64))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for p in (0.1, 0.9):
            result = call(torch.tensor(p, dtype=torch.float64))
            expected = FF.gaussian_dropout(x, p, rng_state=STATE)
            assert torch.equal(result, expected)
            (gradient,) = torch.autograd.grad(result.sum(), x)
            assert torch.equal(gradient, torch.autograd.grad(expected.sum(), x)[0])
        assert torch.equal(call(torch.tensor(0.0, dtype=torch.float64)), x)
        with pytest.raises(ValueError, match="p is 1, but expected less than 1"):
            call(torch.tensor(1.0, dtype=torch.float64))


def test_generators_cannot_be_compiled():
    x = torch.randn(10)
    generator = torch.Generator()
    call = torch.compile(
        lambda x: FF.gaussian_dropout(x, 0.5, generator=generator), backend="eager", fullgraph=True
    )
    with pytest.raises(Exception, match="rng_state="):
        call(x)
