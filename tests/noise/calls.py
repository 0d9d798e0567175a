"""The noise functions, with the reference's and PyTorch's way to compute the same.

A call is a name in CALLS. Its tensors are a dict by argument; `ours`, `theirs` (the reference, in
any dtype) and `unfused` (plain torch operators, each of which rounds) take them, and return a
tensor.
"""

import math

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.helpers import state, ulp

STATE = state()
P = 0.3
TEMPERATURE = 0.2
ALPHA, BETA = 1.5, 0.25

CALLS = ("gaussian", "concrete", "standout", "standout_eval")
every_call = pytest.mark.parametrize("name", CALLS)
DRAWING = CALLS[:3]
every_drawing_call = pytest.mark.parametrize("name", DRAWING)
# By what there is a gradient.
DIFFERENTIABLE = {
    "gaussian": ("x",),
    "concrete": ("x", "logit"),
    "standout": ("x",),
    "standout_eval": ("x", "z"),
}


def tensors_of(name, shape, dtype=torch.float32, seed=0, logit_dtype=None):
    generator = torch.Generator().manual_seed(seed)

    def new(*sizes):
        return torch.randn(sizes, generator=generator).to(dtype).requires_grad_()

    tensors = {"x": new(*shape)}
    if name == "concrete":
        tensors["logit"] = torch.tensor(-0.8, dtype=logit_dtype or dtype, requires_grad=True)
    if name.startswith("standout"):
        tensors["z"] = new(*shape)
    return tensors


def ours(name, tensors, rng_state=STATE, p=P, **options):
    options = {"rng_state": rng_state, **options}
    if name == "gaussian":
        return FF.gaussian_dropout(tensors["x"], p, **options)
    if name == "concrete":
        return FF.concrete_dropout(tensors["x"], tensors["logit"], TEMPERATURE, **options)
    options.setdefault("training", name == "standout")
    return FF.standout(tensors["x"], tensors["z"], ALPHA, BETA, **options)


def theirs(name, tensors, rng_state=STATE, p=P, **options):
    if name == "gaussian":
        return reference.gaussian_dropout(tensors["x"], p, rng_state, **options)
    if name == "concrete":
        logit = tensors["logit"]
        return reference.concrete_dropout(tensors["x"], logit, TEMPERATURE, rng_state, **options)
    x, z, training = tensors["x"], tensors["z"], name == "standout"
    return reference.standout(x, z, ALPHA, BETA, rng_state, training=training, **options)


def operator(name, tensors, rng_state=STATE, p=P, mask_strides=None, mask_offset=0):
    """The operator, with its options that functions do not have: mask strides and offset."""
    position = ([], mask_strides, mask_offset)
    operators = torch.ops.fused_dropout
    if name == "gaussian":
        return operators.gaussian_dropout(tensors["x"], rng_state, p, None, *position)
    if name == "concrete":
        logit = tensors["logit"]
        return operators.concrete_dropout(tensors["x"], logit, rng_state, TEMPERATURE, *position)
    x, z, training = tensors["x"], tensors["z"], name == "standout"
    return operators.standout(x, z, rng_state, ALPHA, BETA, training, *position)


def unfused(name, tensors, rng_state=STATE, p=P):
    """As a user writes it, with our draws in the dtype of x."""
    x = tensors["x"]
    j = reference.mask_index(x)
    if name == "gaussian":
        return x * (1 + math.sqrt(p / (1 - p)) * reference.normal(j, rng_state).to(x.dtype))
    if name == "concrete":
        logit = tensors["logit"]
        # In fp32: torch would take a u of 16 bits, which is worse than anything measured here.
        noise = torch.logit(reference.uniform(j, rng_state)).to(
            torch.promote_types(x.dtype, torch.float32)
        )
        d = torch.sigmoid((logit + noise) / TEMPERATURE).to(x.dtype)
        return x * (1 - d) / (1 - torch.sigmoid(logit)).to(x.dtype)
    q = torch.sigmoid(ALPHA * tensors["z"] + BETA)
    if name == "standout_eval":
        return x * q
    return theirs(name, tensors, rng_state)


def undecided(tensors, alpha=ALPHA, beta=BETA):
    """Where a threshold computed in fp32 may be another than the exact one."""
    exact = reference.standout_threshold(tensors["z"].float(), alpha, beta)
    return ((exact % 1) - 0.5).abs() < 0.01


def in_dtype(tensors, dtype):
    """The same numbers in another dtype, as leaves."""
    return {
        key: value.detach().to(dtype).requires_grad_(value.requires_grad)
        for key, value in tensors.items()
    }


def upstream_of(result, seed=1):
    """A gradient that is nowhere constant and has a mean."""
    generator = torch.Generator().manual_seed(seed)
    return (0.3 + torch.randn(result.shape, generator=generator)).to(result.dtype)


def gradients_of(name, result, tensors, upstream):
    wanted = DIFFERENTIABLE[name]
    found = torch.autograd.grad(
        result, [tensors[key] for key in wanted], upstream.to(result.dtype), retain_graph=True
    )
    return dict(zip(wanted, found, strict=True))


def check_values(name, tensors, result, gradients, rng_state=STATE, **options):
    """A result and its gradients (by name), against the reference in fp64.

    Tolerance: the largest error is at most twice that of the unfused operators in the same dtype
    and with the same noise, plus four ULP of the largest number, or of 1. The gradient by the logit
    is a sum: its unit is an ULP of the sum of its terms' magnitudes. In fp64 256 ULP are free.
    """
    upstream = upstream_of(result)
    wide = in_dtype(tensors, torch.float64)
    exact = theirs(name, wide, rng_state, **options)
    usual = unfused(name, tensors, rng_state) if not options else exact
    expected = gradients_of(name, exact, wide, upstream)
    usual_gradients = gradients_of(name, usual, tensors if not options else wide, upstream)
    rows = [("result", result, exact, usual)]
    rows += [(key, gradients[key], expected[key], usual_gradients[key]) for key in gradients]
    for what, one, truth, other in rows:
        unit = ulp(truth.detach().abs().max().clamp(min=1), one.dtype)
        if what == "logit":
            unit = unit * max(tensors["x"].numel(), 1) ** 0.5
        error = (one.double() - truth).abs().max()
        if one.dtype == torch.float64:
            assert error <= 256 * unit, (what, error)
        else:
            bound = 2 * (other.double() - truth).abs().max() + 4 * unit
            assert error <= bound, (what, error, bound)
