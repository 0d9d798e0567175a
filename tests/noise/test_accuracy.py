"""How close the numbers behind the noise are to the contract's: see csrc/math/distributions.h.

They are recovered from results whose own rounding is small beside them.
"""

import itertools

import pytest
import torch

import fused_dropout.functional as FF
from fused_dropout import reference
from tests.cuda_emulator.shim import NoiseKernels
from tests.helpers import CAPABILITIES, correctly_rounded, forced, ordinals, ulp
from tests.noise.noise_call import STATE

pytestmark = pytest.mark.usefixtures("emulated_kernels")

COUNT = 1_500_000
WIDE_P = 1 - 2.0**-20  # sigma is 1024 or so: the one that is added to the noise hardly counts


@pytest.fixture(scope="module")
def exact():
    j = torch.arange(COUNT)
    return reference.normal(j, STATE), reference.uniform(j, STATE)


def on_device(x, functor, constants, **options):
    seed, offset = STATE.tolist()
    return NoiseKernels(x, seed=seed, offset=offset).run(functor, [x], constants, **options)[0]


def kernel_results(x, p):
    """By name: of every instruction set, and with the formulas for a GPU."""
    for name in CAPABILITIES:
        with forced(name):
            yield name, FF.gaussian_dropout(x, p, rng_state=STATE)
    sigma = (p / (1 - p)) ** 0.5
    yield "device", on_device(x, "Gaussian", [sigma])


def largest_error(y, z):
    sigma = float(torch.tensor((WIDE_P / (1 - WIDE_P)) ** 0.5))
    wanted = 1 + sigma * z
    unit = sigma * ulp(z.abs(), torch.float32)
    counts = z.abs() > 2.0**-5  # below, what is added counts
    return float(((y.double() - wanted).abs() / unit)[counts].max())


def test_normal_numbers_in_fp32(exact):
    """Within 4 ULP, and one of the result's own rounding."""
    for name, y in kernel_results(torch.ones(COUNT), WIDE_P):
        assert largest_error(y, exact[0]) <= 5, name


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_sixteen_bit_results_are_correctly_rounded(dtype, exact):
    """All but a few, and those are off by one."""
    wanted = correctly_rounded(1 + exact[0], dtype)
    for name, y in kernel_results(torch.ones(COUNT, dtype=dtype), 0.5):
        assert float((y != wanted).double().mean()) < 0.003, name
        # Close to zero a unit is smaller than the error of z.
        far = (1 + exact[0]).abs() > 2.0**-4
        assert int((ordinals(y) - ordinals(wanted)).abs()[far].max()) <= 1, name


def concrete_results(dtype):
    """With temperature 1 and p = 0.5 a kept share is twice 1 - u."""
    x, logit = torch.ones(COUNT, dtype=dtype), torch.zeros(())
    for name in CAPABILITIES:
        with forced(name):
            yield name, FF.concrete_dropout(x, logit, 1.0, rng_state=STATE)
    yield "device", on_device(x, "ConcreteForward", [0, 1.0], scalar=logit)


def test_logits_in_fp32(exact):
    wanted = 2 * (1 - exact[1])
    for name, y in concrete_results(torch.float32):
        assert float(((y.double() - wanted) / wanted).abs().max()) < 3e-6, name


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=str)
def test_sixteen_bit_shares_are_correctly_rounded(dtype, exact):
    wanted = correctly_rounded(2 * (1 - exact[1]), dtype)
    for name, y in concrete_results(dtype):
        assert float((y != wanted).double().mean()) < 0.005, name
        assert int((ordinals(y) - ordinals(wanted)).abs().max()) <= 1, name


def test_instruction_sets_agree(exact):
    results = dict(kernel_results(torch.ones(COUNT), 0.5))
    for one, other in itertools.combinations(results.values(), 2):
        assert float((one - other).abs().max()) < 3e-6


if __name__ == "__main__":
    indices = torch.arange(COUNT)
    z, u = reference.normal(indices, STATE), reference.uniform(indices, STATE)
    for name, y in kernel_results(torch.ones(COUNT), WIDE_P):
        print(f"normal {name:9} {largest_error(y, z):6.2f} ULP")
    for name, y in concrete_results(torch.float32):
        error = ((y.double() - 2 * (1 - u)) / (2 * (1 - u))).abs().max()
        print(f"share  {name:9} {float(error):.2e}")
    for dtype in (torch.float16, torch.bfloat16):
        for kind, results, wanted in (
            ("normal", kernel_results(torch.ones(COUNT, dtype=dtype), 0.5), 1 + z),
            ("share", concrete_results(dtype), 2 * (1 - u)),
        ):
            for name, y in results:
                wrong = (y != correctly_rounded(wanted, dtype)).double().mean()
                print(f"{kind:6} {name:9} {dtype} {float(wrong):.2%} not correctly rounded")
