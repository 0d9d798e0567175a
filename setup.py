"""Builds the extension `fused_dropout._C`; everything else is in pyproject.toml.

Environment:
    FUSED_DROPOUT_CPU_ONLY=1   build without CUDA, even if CUDA is available
    FORCE_CUDA=1               build with CUDA, or fail
    TORCH_CUDA_ARCH_LIST       CUDA architectures, as in torch
    MAX_JOBS                   number of parallel compilations
    FUSED_DROPOUT_MUTATIONS=1  compile the CPU kernels with the switches of the mutation tests. It
                               needs an earlier build without them, whose other objects are linked
    FUSED_DROPOUT_SANITIZE     compile the CPU kernels with sanitizers for tests/fuzz, also after an
                               earlier build: "memory" for AddressSanitizer and
                               UndefinedBehaviorSanitizer, "threads" for ThreadSanitizer
"""

import os
import re
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # build frontends do not add this folder
import setup_toolkit  # noqa: E402

try:
    import torch
except ModuleNotFoundError as error:
    sys.exit(
        f"fused_dropout is built against the torch that it runs with, but: {error}.\n"
        "Install torch first, then build without isolation:\n"
        "    pip install torch ninja\n"
        "    pip install --no-build-isolation ."
    )


SANITIZERS = {
    # Without the checks for null pointers and object sizes, which AddressSanitizer detects too.
    "memory": [
        "-fsanitize=address",
        "-fsanitize=alignment,bool,bounds,enum,float-cast-overflow,integer-divide-by-zero",
        "-fsanitize=nonnull-attribute,shift,signed-integer-overflow",
    ],
    "threads": ["-fsanitize=thread"],
}
SANITIZE = [
    "-DFUSED_DROPOUT_SANITIZE",
    "-Wno-switch",  # this build has only some of the activations
    "-fno-sanitize-recover=all",
    # With use-after-scope checks, kernels take more than ten times as long to compile.
    "-fno-sanitize-address-use-after-scope",
    "--param=asan-instrumentation-with-call-threshold=0",
    "-fno-wrapv",  # Python's flag -fwrapv would make signed overflow defined
]


def flag(name):
    return os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")


def decide_cuda():
    """Returns the folder of the CUDA toolkit, or None for a build without CUDA, and the reason."""
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
    """Sets TORCH_CUDA_ARCH_LIST if it is not set, and returns it.

    The default is the architectures of the GPUs of this machine. On a machine without GPUs it is
    the architectures that torch was built for, from 7.5 on. PTX of the newest architecture is
    included, which later GPUs can compile.
    """
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        if torch.cuda.is_available():
            devices = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
            chosen = sorted(set(devices))
        else:
            flags = re.findall(r"sm_(\d+)(\d)\b", torch._C._cuda_getArchFlags())
            found = {(int(major), int(minor)) for major, minor in flags}
            versions = sorted(version for version in found if version >= (7, 5))
            # The first of each generation: its code runs on the later ones of the generation.
            first = {major: (major, minor) for major, minor in reversed(versions)}
            chosen = sorted(first.values())
        names = [f"{major}.{minor}" for major, minor in chosen]
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(names) + "+PTX"
    return os.environ["TORCH_CUDA_ARCH_LIST"]


def bound_jobs():
    """Limits the parallel compilations by the memory: one nvcc needs about a gigabyte."""
    if os.environ.get("MAX_JOBS") or not hasattr(os, "sysconf"):
        return
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    os.environ["MAX_JOBS"] = str(max(1, min(os.cpu_count() or 1, int(gigabytes / 2))))


def arguments_of_setup():
    """Returns the arguments of setup(): the extension and the command that builds it."""
    toolkit, reason = decide_cuda()
    print(f"fused_dropout: building {'with CUDA' if toolkit else 'for the CPU only'}: {reason}")
    if toolkit:
        os.environ["CUDA_HOME"] = toolkit  # torch's helper reads it on import
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    # These builds compile only the CPU kernels, and link the other objects of an earlier build.
    sanitize = os.environ.get("FUSED_DROPOUT_SANITIZE")
    kernels_alone = flag("FUSED_DROPOUT_MUTATIONS") or sanitize
    kernels = glob("csrc/cpu/**/*.cpp", recursive=True)
    sources = glob("csrc/*.cpp") + glob("csrc/ops/**/*.cpp", recursive=True) + kernels
    # No -std= (torch's helper selects the standard that torch's headers need), no -march= (kernels
    # select their instruction set at run time), and no fast-math (it breaks NaN and exact masks).
    # The two -fno flags allow to vectorise comparisons and rounding, and do not change values.
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
        cxx.append("-fopenmp")  # at::parallel_for is serial without OpenMP
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
        # No --use_fast_math: the code calls approximations explicitly where they are accurate.
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
