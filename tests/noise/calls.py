"""The calls of the noise functions, over which the tests loop.

A new operator is a new entry of CALLS. What only this operator has is tested in a file of its own,
as in test_concrete.py.
"""

import math

import pytest
import torch

import fused_dropout as fd
from fused_dropout import reference
from tests.noise.noise_call import NoiseCall

TEMPERATURE = 0.2
ALPHA, BETA = 1.5, 0.25


def gaussian(x, rng_state, p):
    z = reference.normal(reference.mask_index(x), rng_state)
    return x * (1 + math.sqrt(p / (1 - p)) * z.to(x.dtype))


def concrete(x, logit, rng_state, temperature):
    # In fp32: torch would take a u of 16 bits, which is worse than anything measured here.
    noise = torch.logit(reference.uniform(reference.mask_index(x), rng_state)).to(
        torch.promote_types(x.dtype, torch.float32)
    )
    d = torch.sigmoid((logit + noise) / temperature).to(x.dtype)
    return x * (1 - d) / (1 - torch.sigmoid(logit)).to(x.dtype)


def standout_mean(x, z, rng_state, alpha, beta):
    return x * torch.sigmoid(alpha * z + beta)


STANDOUT = {
    "function": "standout",
    "arguments": {"alpha": ALPHA, "beta": BETA},
    "elementwise": ("x", "z"),
    "backward": "standout_backward",
    "module": fd.Standout,
}
CALLS = {
    "gaussian": NoiseCall(
        "gaussian_dropout",
        {"p": 0.3},
        gaussian,
        fd.GaussianDropout,
        functor="Gaussian",
        constants=lambda p: [math.sqrt(p / (1 - p))],
    ),
    "concrete": NoiseCall(
        "concrete_dropout",
        {"temperature": TEMPERATURE},
        concrete,
        fd.ConcreteDropout,
        functor="ConcreteForward",
        constants=lambda temperature: [0, 1 / temperature],
        scalars={"logit": -0.8},
        differentiable=("x", "logit"),
        saved=("x", "logit"),
        backward="concrete_dropout_backward",
        backward_functor="ConcreteBackward",
        module_options={"p": 0.3},
        module_tensors=lambda module, x: {"x": x, "logit": module.p_logit},
    ),
    "standout": NoiseCall(
        **STANDOUT,
        unfused=reference.standout,
        functor="Standout",
        saved=("z",),
        evaluation="standout_eval",
        module_options={"activation": "gelu"},
        module_tensors=lambda module, x: {"x": torch.nn.functional.gelu(x), "z": x},
    ),
    "standout_eval": NoiseCall(
        **STANDOUT,
        unfused=standout_mean,
        functor="StandoutMean",
        differentiable=("x", "z"),
        saved=("x", "z"),
        backward_functor="StandoutMeanBackward",
        draws=False,
        evaluation="standout_eval",
    ),
}
# The arguments that are numbers, with a valid value of each.
NUMBERS = {key: value for call in CALLS.values() for key, value in call.arguments.items()}
DRAWING = {name: call for name, call in CALLS.items() if call.draws}
WITH_A_SCALAR = {name: call for name, call in CALLS.items() if call.scalars}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_drawing_call = pytest.mark.parametrize("call", DRAWING.values(), ids=DRAWING)
every_call_with_a_scalar = pytest.mark.parametrize(
    "call", WITH_A_SCALAR.values(), ids=WITH_A_SCALAR
)
