"""Builds the extension `fused_dropout._C`; everything else is in pyproject.toml.

Environment:
    FUSED_DROPOUT_CPU_ONLY=1   leave CUDA out even where it could be built
    FORCE_CUDA=1               build CUDA or fail
    TORCH_CUDA_ARCH_LIST       CUDA architectures, as in torch
    MAX_JOBS                   parallel compilations
    FUSED_DROPOUT_MUTATIONS=1  compile in the switches of tests/mutations, after a build
                               without them, whose other objects are linked
    FUSED_DROPOUT_SANITIZE     in the same way the CPU kernels with sanitizers, for tests/fuzz:
                               "memory" has AddressSanitizer and UndefinedBehaviorSanitizer,
                               "threads" ThreadSanitizer
"""

import os
import re
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # a build frontend does not put it there
import setup_toolkit  # noqa: E402

try:
    import torch
except ModuleNotFoundError as error:
    sys.exit(
        f"fused_dropout is built against the torch that it will run with, but: {error}.\n"
        "Install torch first, then build without isolation:\n"
        "    pip install torch ninja\n"
        "    pip install --no-build-isolation ."
    )


SANITIZERS = {
    # Without those that ask of every pointer whether it is null and what it points to:
    # AddressSanitizer sees these accesses.
    "memory": [
        "-fsanitize=address",
        "-fsanitize=alignment,bool,bounds,enum,float-cast-overflow,integer-divide-by-zero",
        "-fsanitize=nonnull-attribute,shift,signed-integer-overflow",
    ],
    "threads": ["-fsanitize=thread"],
}
SANITIZE = [
    "-DFUSED_DROPOUT_SANITIZE",
    "-Wno-switch",  # it has a few of the activations
    "-fno-sanitize-recover=all",
    # With the scopes of inlined functions kernels take more than ten times as long to compile.
    "-fno-sanitize-address-use-after-scope",
    "--param=asan-instrumentation-with-call-threshold=0",
    "-fno-wrapv",  # Python's own -fwrapv would define the overflows away
]


def flag(name):
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")


def decide_cuda():
    """Returns the folder of the toolkit to build CUDA kernels with, or None, and why in words."""
    built_for = torch.version.cuda
    where = f"torch {torch.__version__} ({os.path.dirname(torch.__file__)})"
    home = None
    if flag("FUSED_DROPOUT_CPU_ONLY"):
        reason = "FUSED_DROPOUT_CPU_ONLY is set"
    elif built_for is None:
        reason = f"{where} was built without CUDA"
    else:
        home, found = setup_toolkit.find(built_for)
        reason = f"{where} was built for CUDA {built_for}{'; ' if home else ', but '}{found}"
    if flag("FORCE_CUDA") and home is None:
        sys.exit(f"fused_dropout: FORCE_CUDA is set, but {reason}")
    return home, reason


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


def arguments_of_setup():
    """The extension, and the command that builds it."""
    toolkit, reason = decide_cuda()
    print(f"fused_dropout: building {'with CUDA' if toolkit else 'for the CPU only'}: {reason}")
    if toolkit:
        os.environ["CUDA_HOME"] = toolkit  # torch's helper reads it when it is imported
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    # What a build with these needs of the plain one are the objects of all but the CPU kernels.
    sanitize = os.environ.get("FUSED_DROPOUT_SANITIZE")
    kernels_alone = flag("FUSED_DROPOUT_MUTATIONS") or sanitize
    kernels = glob("csrc/cpu/**/*.cpp", recursive=True)
    sources = glob("csrc/*.cpp") + glob("csrc/ops/**/*.cpp", recursive=True) + kernels
    # Neither -std= (torch's helper picks what torch's headers need) nor -march= (the kernels choose
    # their instruction set at run time) nor fast-math (it breaks NaN and the exactness of masks).
    # The two -fno let compilers vectorise comparisons and rounding; values do not change.
    cxx = [
        "-O1" if kernels_alone else "-O3",
        "-g1" if sanitize else "-g0",
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
    include = [str(HERE / "csrc")]
    if sanitize:
        cxx += SANITIZERS[sanitize] + SANITIZE
        link += SANITIZERS[sanitize]
        if sanitize == "threads":
            include.append(str(HERE / "tests" / "fuzz" / "threads"))
    bound_jobs()
    kind, arguments = CppExtension, {"cxx": cxx}
    library_dirs = []
    if toolkit:
        kind = CUDAExtension
        architectures = choose_architectures()
        print(f"fused_dropout: CUDA architectures: {architectures}")
        sources += glob("csrc/cuda/*.cpp") + glob("csrc/cuda/**/*.cu", recursive=True)
        names = ",".join(architectures.replace(";", " ").split())
        cxx += ["-DFUSED_DROPOUT_CUDA", f"-DFUSED_DROPOUT_CUDA_ARCHITECTURES={names}"]
        # No --use_fast_math: the formulas name the approximations that they can bear.
        arguments["nvcc"] = ["-O3", "-DFUSED_DROPOUT_CUDA"]
        library_dirs += setup_toolkit.linkable(toolkit, HERE / "build" / "cuda_link")
    objects = []
    if kernels_alone:
        plain = Path("build", f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}")
        others = sorted(set(sources) - set(kernels))
        objects = [str((plain / source).with_suffix(".o")) for source in others]
        sources = kernels
    module = kind(
        name="fused_dropout._C",
        sources=sorted(sources),
        include_dirs=include,
        extra_objects=objects,
        depends=sorted(glob("csrc/**/*.h", recursive=True) + glob("csrc/**/*.cuh", recursive=True)),
        extra_compile_args=arguments,
        extra_link_args=link,
        library_dirs=library_dirs,
    )
    return {"ext_modules": [module], "cmdclass": {"build_ext": BuildExtension}}


setup(**arguments_of_setup())
