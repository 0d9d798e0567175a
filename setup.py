"""Builds the extension `fused_dropout._C`; everything else is in pyproject.toml.

Environment:
    FUSED_DROPOUT_CPU_ONLY=1   leave CUDA out even where it could be built
    FORCE_CUDA=1               build CUDA or fail
    TORCH_CUDA_ARCH_LIST       CUDA architectures, as in torch
    MAX_JOBS                   parallel compilations
    FUSED_DROPOUT_MUTATIONS=1  compile in the switches of tests/test_mutations.py
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob

from setuptools import setup


def find_toolkit():
    """Sets CUDA_HOME where torch would take the folder above a link to nvcc for the toolkit."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    behind_link = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
    for home in (os.path.dirname(os.path.dirname(nvcc)), behind_link, "/usr/local/cuda"):
        if os.path.exists(os.path.join(home, "include", "cuda.h")):
            os.environ["CUDA_HOME"] = home
            return


find_toolkit()
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


def toolkit_version():
    """Of nvcc, as (major, minor); None where it cannot be run."""
    try:
        nvcc = os.path.join(CUDA_HOME, "bin", "nvcc")
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return found and (int(found[1]), int(found[2]))


def decide_cuda():
    """Returns whether to build CUDA kernels, and the reason in words."""
    built_for = torch.version.cuda
    toolkit = toolkit_version() if CUDA_HOME else None
    where = f"torch {torch.__version__} ({os.path.dirname(torch.__file__)})"
    if flag("FUSED_DROPOUT_CPU_ONLY"):
        decision = False, "FUSED_DROPOUT_CPU_ONLY is set"
    elif built_for is None:
        decision = False, f"{where} was built without CUDA"
    elif CUDA_HOME is None:
        decision = (
            False,
            f"{where} was built for CUDA {built_for}, but no CUDA toolkit was found "
            "(set CUDA_HOME)",
        )
    elif toolkit is None:
        decision = False, f"nvcc in {CUDA_HOME} cannot be run"
    elif not os.path.exists(os.path.join(CUDA_HOME, "include", "cuda.h")):
        decision = False, f"the CUDA toolkit in {CUDA_HOME} has no headers (set CUDA_HOME)"
    elif toolkit[0] != int(built_for.split(".")[0]):
        decision = (
            False,
            f"{where} was built for CUDA {built_for}, but the toolkit in {CUDA_HOME} is "
            f"{toolkit[0]}.{toolkit[1]}: the major versions have to be the same",
        )
    else:
        decision = (
            True,
            f"{where} was built for CUDA {built_for}; toolkit {toolkit[0]}.{toolkit[1]} "
            f"in {CUDA_HOME}",
        )
    if flag("FORCE_CUDA") and not decision[0]:
        sys.exit(f"FORCE_CUDA is set, but {decision[1]}")
    return decision


def choose_architectures():
    """Sets TORCH_CUDA_ARCH_LIST where the user has not; returns it.

    To the GPUs of this machine, or where there are none, to the architectures that torch was built
    for, from 7.5 on. Always with PTX of the newest, which later GPUs can compile.
    """
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        if torch.cuda.is_available():
            devices = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
            chosen = sorted(set(devices))
        else:
            flags = re.findall(r"sm_(\d+)(\d)\b", torch._C._cuda_getArchFlags())
            found = {(int(major), int(minor)) for major, minor in flags}
            versions = sorted(version for version in found if version >= (7, 5))
            # Of each generation the first: its code runs on the later ones.
            first = {major: (major, minor) for major, minor in reversed(versions)}
            chosen = sorted(first.values())
        names = [f"{major}.{minor}" for major, minor in chosen]
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(names) + "+PTX"
    return os.environ["TORCH_CUDA_ARCH_LIST"]


def bound_jobs():
    """One nvcc needs about a gigabyte: not more of them than the memory holds."""
    if os.environ.get("MAX_JOBS") or not hasattr(os, "sysconf"):
        return
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    os.environ["MAX_JOBS"] = str(max(1, min(os.cpu_count() or 1, int(gigabytes / 2))))


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
    bound_jobs()
    kind, arguments = CppExtension, {"cxx": cxx}
    if cuda:
        kind = CUDAExtension
        architectures = choose_architectures()
        print(f"fused_dropout: CUDA architectures: {architectures}")
        sources += glob("csrc/cuda/*.cpp") + glob("csrc/cuda/*.cu")
        names = ",".join(architectures.replace(";", " ").split())
        cxx += ["-DFUSED_DROPOUT_CUDA", f"-DFUSED_DROPOUT_CUDA_ARCHITECTURES={names}"]
        # No --use_fast_math: the formulas name the approximations that they can bear.
        arguments["nvcc"] = ["-O3", "-DFUSED_DROPOUT_CUDA"]
    return kind(
        name="fused_dropout._C",
        sources=sorted(sources),
        depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True)),
        extra_compile_args=arguments,
        extra_link_args=link,
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
