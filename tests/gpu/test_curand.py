"""The generator against cuRAND's, on the device; where the toolkit has cuRAND's header.

It shows that a group of the contract is what ``curand4`` gives for its seed, number and offset.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fused_dropout import reference
from tests.gpu.on_device import needs_gpu

PROGRAM = r"""
#include <curand_kernel.h>
#include <cstdio>
#include <cstdlib>

__global__ void numbers(unsigned long long seed, unsigned long long group,
                        unsigned long long offset, uint4* result) {
  curandStatePhilox4_32_10_t state;
  curand_init(seed, group, offset, &state);
  *result = curand4(&state);
}

int main(int count, char** arguments) {
  uint4 *result, words;
  cudaMalloc(&result, sizeof(words));
  for (int i = 1; i + 2 < count; i += 3) {
    numbers<<<1, 1>>>(strtoull(arguments[i], nullptr, 10), strtoull(arguments[i + 1], nullptr, 10),
                      strtoull(arguments[i + 2], nullptr, 10), result);
    if (cudaMemcpy(&words, result, sizeof(words), cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
    std::printf("%u %u %u %u\n", words.x, words.y, words.z, words.w);
  }
}
"""


def nvcc():
    from torch.utils.cpp_extension import CUDA_HOME

    found = shutil.which("nvcc", path=f"{CUDA_HOME}/bin") if CUDA_HOME else None
    return found or shutil.which("nvcc")


def curand_includes():
    """Folders that may have the header, beside the toolkit's own."""
    site = Path(torch.__file__).parent.parent
    return [f"-I{folder}" for folder in site.glob("nvidia/*/include")]


@needs_gpu
def test_groups_are_curands(tmp_path):
    source, program = tmp_path / "numbers.cu", tmp_path / "numbers"
    source.write_text(PROGRAM)
    probe = subprocess.run(
        [nvcc(), "-E", "-x", "cu", "-", *curand_includes()],
        input="#include <curand_kernel.h>\n", capture_output=True, text=True,
    )  # fmt: skip
    if probe.returncode:
        pytest.skip("the toolkit has no curand_kernel.h")
    subprocess.run([nvcc(), "-arch=native", source, "-o", program, *curand_includes()], check=True)
    calls = [
        (seed, group, offset)
        for seed in (0, 42, 0x123456789ABCDEF0, 2**64 - 5)
        for group in (0, 1, 2**33, 2**60 + 3)
        for offset in (0, 4, 4 * (2**40 + 12345))
    ]
    numbers = [str(number) for call in calls for number in call]
    done = subprocess.run([program, *numbers], check=True, capture_output=True, text=True)
    for (seed, group, offset), line in zip(calls, done.stdout.splitlines(), strict=True):
        block = offset // 4
        counter = (block % 2**32, block >> 32, group % 2**32, group >> 32)
        assert reference.philox((seed % 2**32, seed >> 32), counter) == tuple(
            map(int, line.split())
        )
