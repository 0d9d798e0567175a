"""Concrete dropout stays finite for every finite logit."""

import pytest
import torch

import fused_dropout.functional as FF
from tests.helpers import state

STATE = state()
LOGITS = [-1e38, -1e4, -800.0, -90.0, -20.0, 0.0, 20.0, 87.9, 88.1, 90.0, 800.0, 1e4, 1e38]
every_temperature = pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 10.0])


def run(x, logit, temperature):
    return FF.concrete_dropout(x, logit, temperature, rng_state=STATE)


@every_temperature
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_and_gradients(dtype, temperature, capability):
    for logit in LOGITS:
        check_results_and_gradients(dtype, logit, temperature)


def check_results_and_gradients(dtype, logit, temperature):
    x = torch.ones(300, dtype=dtype, requires_grad=True)
    logit = torch.tensor(logit, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    logit.requires_grad_()
    y = run(x, logit, temperature)
    y.sum().backward()
    assert y.isfinite().all(), logit
    assert x.grad.isfinite().all()
    assert logit.grad.isfinite()
    if logit < -100:  # nothing is dropped
        assert (y == 1).all()
    if logit > 100 and temperature <= 1:  # everything is
        assert (y == 0).all()


@every_temperature
def test_the_composition(temperature):
    """The composition serves transforms and higher derivatives."""
    for logit in LOGITS:
        check_the_composition(logit, temperature)


def check_the_composition(logit, temperature):
    x = torch.ones(300, requires_grad=True)
    logit = torch.tensor(logit, requires_grad=True)
    dx, dlogit = torch.func.grad(lambda x, by: run(x, by, temperature).sum(), (0, 1))(x, logit)
    assert dx.isfinite().all() and dlogit.isfinite()
    first = torch.autograd.grad(run(x, logit, temperature).sum(), x, create_graph=True)[0]
    (second,) = torch.autograd.grad(first.sum(), logit)
    assert second.isfinite()
