"""Finds the CUDA toolkit for setup.py. It needs neither torch nor setuptools."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

# Parts of a toolkit that torch does not depend on, by the names of the extras of the package
# `cuda-toolkit`. Each has a file that compilation needs.
PARTS = {
    "nvcc": "bin/nvcc",
    "nvvm": "nvvm/bin/cicc",
    "crt": "include/crt/host_config.h",
    "cccl": "include/cccl/nv/target",
    "cudart": "include/cuda_runtime_api.h",
}


def version(home):
    """Returns the version of nvcc as (major, minor), or None if nvcc cannot be run."""
    try:
        nvcc = Path(home, "bin", "nvcc")
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", done.stdout)
    return found and (int(found[1]), int(found[2]))


def headers_version(home):
    """Returns the version of the runtime's headers as (major, minor), or None without headers."""
    try:
        text = Path(home, "include", "cuda_runtime_api.h").read_text(errors="replace")
    except OSError:
        return None
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    return found and (int(found[1]) // 1000, int(found[1]) % 1000 // 10)


def shown(numbers):
    return ".".join(map(str, numbers))


def requirement(cuda):
    """Returns the requirement that installs a toolkit with pip, or None if there are no packages.

    The packages of CUDA 12 have no nvcc. The requirement has a version, because pip could otherwise
    install a newer nvcc than the headers that torch depends on.
    """
    if int(cuda.split(".")[0]) < 13:
        return None
    return f"cuda-toolkit[{','.join(PARTS)}]=={cuda}.*"


def problem(home, cuda, packages=False):
    """Returns why the toolkit in `home` cannot build for torch's CUDA version, or None."""
    if packages:
        missing = [part for part, file in PARTS.items() if not Path(home, file).exists()]
        if missing:
            return f"the CUDA packages in {home} lack {', '.join(missing)}"
    found, headers = version(home), headers_version(home)
    if found is None:
        return f"nvcc in {home} cannot be run"
    if headers is None:
        return f"the CUDA toolkit in {home} has no headers"
    if headers != found:
        return f"nvcc in {home} is {shown(found)}, but the headers there are {shown(headers)}"
    if found[0] != int(cuda.split(".")[0]):
        return f"the toolkit in {home} is {shown(found)}: the major versions have to be the same"
    return None


def named(environ):
    return environ.get("CUDA_HOME") or environ.get("CUDA_PATH")


def installed(environ, system):
    """Returns folders of toolkits that are neither set by the user nor packages, best first."""
    homes = []
    nvcc = shutil.which("nvcc", path=environ.get("PATH", ""))
    if nvcc is not None:
        # It may be a link, or a script that calls the real nvcc.
        homes += [Path(nvcc).parent.parent, Path(nvcc).resolve().parent.parent]
    homes.append(Path(system))
    homes = [home for home in dict.fromkeys(homes) if Path(home, "bin", "nvcc").exists()]
    return [home for home in homes if headers_version(home)] or homes


def find(cuda, environ=os.environ, path=sys.path, system="/usr/local/cuda"):
    """Returns the folder of a toolkit for the CUDA version of torch, or None, and the reason.

    If CUDA_HOME or CUDA_PATH is set, only that toolkit is considered. Otherwise it is the first one
    that fits of the toolkit of the nvcc on the PATH, the toolkit in `system`, and the packages in
    the folders of `path`.
    """
    explicit = named(environ)
    if explicit:
        homes = [(explicit, False)]
    else:
        major = cuda.split(".")[0]
        packages = [Path(folder, "nvidia", f"cu{major}") for folder in path]
        homes = [(home, False) for home in installed(environ, system)]
        homes += [(home, True) for home in packages if Path(home, PARTS["nvcc"]).exists()]
    problems = []
    for home, is_packages in homes:
        wrong = problem(home, cuda, is_packages)
        if wrong is None:
            return str(home), f"toolkit {shown(version(home))} in {home}"
        problems.append(wrong)
    reason = "; ".join(problems) or "no CUDA toolkit was found"
    packages = None if explicit else requirement(cuda)
    remedy = f'set CUDA_HOME, or pip install "{packages}"' if packages else "set CUDA_HOME"
    return None, f"{reason} ({remedy})"


def linkable(home, folder):
    """Returns additional library folders: `folder` if the toolkit has no libcudart.so.

    Packages have only libcudart.so.13, but the linker searches for the name without a number.
    `folder` gets a link with that name.
    """
    libraries = [Path(home, name) for name in ("lib64", "lib")]
    if any((library / "libcudart.so").exists() for library in libraries):
        return []
    numbered = [file for library in libraries for file in sorted(library.glob("libcudart.so.*"))]
    if not numbered:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "libcudart.so"
    link.unlink(missing_ok=True)
    link.symlink_to(numbered[0].resolve())
    return [str(folder)]
