"""Builds the extension `fused_dropout._C`; everything else is in pyproject.toml.

Environment:
    FUSED_DROPOUT_CPU_ONLY=1   leave CUDA out even where it could be built
    FORCE_CUDA=1               build CUDA or fail
    TORCH_CUDA_ARCH_LIST       CUDA architectures, as in torch
    MAX_JOBS                   parallel compilations
    FUSED_DROPOUT_MUTATIONS=1  compile in the switches of tests/test_mutations.py
"""

import os
import sys
from glob import glob

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
except ModuleNotFoundError as error:
    sys.exit(
        f"fused_dropout is built against the torch that it will run with, but: {error}.\n"
        "Install torch first, then build without isolation:\n"
        "    pip install torch ninja\n"
        "    pip install --no-build-isolation ."
    )


def flag(name):
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")


def decide_cuda():
    """Returns whether to build CUDA kernels, and the reason in words."""
    sources = glob("csrc/cuda/*.cu")
    if flag("FUSED_DROPOUT_CPU_ONLY"):
        decision = False, "FUSED_DROPOUT_CPU_ONLY is set"
    elif not sources:
        decision = False, "this version has no CUDA kernels"
    elif torch.version.cuda is None:
        decision = False, f"torch {torch.__version__} was built without CUDA"
    elif CUDA_HOME is None:
        decision = (
            False,
            f"torch was built for CUDA {torch.version.cuda}, but no CUDA toolkit was found "
            "(set CUDA_HOME)",
        )
    else:
        decision = True, f"torch was built for CUDA {torch.version.cuda}; toolkit in {CUDA_HOME}"
    if flag("FORCE_CUDA") and not decision[0]:
        sys.exit(f"FORCE_CUDA is set, but {decision[1]}")
    return decision


def extension():
    cuda, reason = decide_cuda()
    print(f"fused_dropout: building {'with CUDA' if cuda else 'for the CPU only'}: {reason}")
    sources = glob("csrc/*.cpp") + glob("csrc/cpu/*.cpp")
    # Neither -std= (torch's helper picks what torch's headers need) nor -march= (the kernels choose
    # their instruction set at run time) nor fast-math (it breaks NaN and the exactness of masks).
    # The two -fno let compilers vectorise comparisons and rounding; values do not change.
    cxx = [
        "-O1" if flag("FUSED_DROPOUT_MUTATIONS") else "-O3",
        "-g0",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fvisibility=hidden",
        "-Wall",
    ]
    cxx += ["-Wno-psabi", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
    link = []
    if sys.platform.startswith("linux"):
        cxx.append("-fopenmp")  # without it at::parallel_for is serial
        link.append("-fopenmp")
    if flag("FUSED_DROPOUT_MUTATIONS"):
        cxx.append("-DFUSED_DROPOUT_MUTATIONS")
    kind, arguments = CppExtension, {"cxx": cxx}
    if cuda:
        kind = CUDAExtension
        sources += glob("csrc/cuda/*.cpp") + glob("csrc/cuda/*.cu")
        arguments["nvcc"] = ["-O3"]
    return kind(
        name="fused_dropout._C",
        sources=sorted(sources),
        depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True)),
        extra_compile_args=arguments,
        extra_link_args=link,
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
