"""The CUDA kernel that writes a state, run on the CPU by tests/cuda_emulator."""

import ctypes

import pytest
import torch

from tests.cuda_emulator.shim import library

pytestmark = pytest.mark.usefixtures("emulated_kernels")


@pytest.mark.parametrize("added", [0, 4, 2**40])
def test_a_captured_state_has_the_offset_of_its_replay(added):
    """A graph capture registers addresses, and how far the call is from the offset there."""
    drawn = torch.tensor([-5, 12])
    rng_state = torch.zeros(2, dtype=torch.int64)
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (drawn, rng_state))
    source, target = addresses
    library().shim_state(source, ctypes.c_uint64(added), target)
    assert rng_state.tolist() == [-5, 12 + added]
