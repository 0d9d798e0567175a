"""The formulas that a GPU computes with, for every 16-bit number: on the CPU, with exact functions.

What its approximate instructions add is seen on a GPU only (tests/gpu).
"""

import pytest
import torch

from tests.activation_oracle import HALVES, check_sixteen_bits, numbers
from tests.cuda_emulator.shim import Kernels
from tests.helpers import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("emulated_kernels")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_sixteen_bit_number(activation, dtype):
    x = numbers(dtype)
    parameter = {"leaky_relu": 0.01, "elu": 1.0}.get(activation, 0.0)
    call = Kernels(x, p=0.0, activation=activation, parameter=parameter)
    check_sixteen_bits((call.forward(), call.backward(torch.ones_like(x), x)[0]), activation)
