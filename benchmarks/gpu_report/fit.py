"""Checks whether an installed package fits this Python, torch and GPU."""

from __future__ import annotations

import re


def misfit(found: dict, needs_gpu: bool = True) -> str | None:
    """Returns why the package does not fit, in one line, or None. `found` is from `probe`."""
    if found["package"] is None:
        return f"no fused_dropout is installed for Python {found['python']}: pip install a wheel"
    if not found["modules"]:
        return f"the package in {found['package']} has no compiled extension: install a wheel"
    loadable = {f"_C{suffix}" for suffix in found["suffixes"]}
    if not loadable.intersection(found["modules"]):
        return (
            f"the wheel is for another Python: it has {', '.join(found['modules'])}, and this "
            f"Python {found['python']} loads _C{found['suffixes'][0]}"
        )
    if found["import_error"]:
        return _import_problem(found)
    return _gpu_problem(found) if needs_gpu else None


def _import_problem(found: dict) -> str:
    error = " ".join(found["import_error"].split())
    # The error text of fused_dropout/_extension.py when the two do not match.
    built_for = re.search(r"was built against torch (\S+?),", error)
    if built_for:
        return (
            f"the wheel is for another torch: it was built against torch {built_for[1]}, and torch "
            f"{found['torch']} is running"
        )
    if "compiled extension does not load" in error:
        reason = re.search(r"does not load with torch \S+: (.*?)\.? It was built", error)
        return (
            f"the wheel is for another torch than {found['torch']}: "
            f"{(reason[1] if reason else error)[:300]}"
        )
    return f"the installed package does not import: {error[:300]}"


def _gpu_problem(found: dict) -> str | None:
    architectures = found["build_info"]["cuda_architectures"]
    if not found["build_info"]["cuda"] or not architectures:
        return "the wheel has no CUDA kernels: it was built for the CPU only"
    if any(serves(architecture, tuple(found["capability"])) for architecture in architectures):
        return None
    capability = ".".join(map(str, found["capability"]))
    return (
        f"the wheel is for another architecture: it has {', '.join(architectures)}, and "
        f"{found['gpu']} has compute capability {capability}"
    )


def serves(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether code for an entry of TORCH_CUDA_ARCH_LIST, such as "8.0" or "9.0+PTX", runs on a GPU.

    Machine code runs on GPUs of the same generation with the same or a higher number. PTX runs on
    all later GPUs. Code for "9.0a" runs only on 9.0, also as PTX. Code for "10.0f" runs only on its
    generation, also as PTX.
    """
    parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture.strip())
    if parts is None:
        return False
    own, kind, ptx = (int(parts[1]), int(parts[2])), parts[3], parts[4]
    if kind == "a":
        return capability == own
    same_generation = capability[0] == own[0]
    return capability >= own and (same_generation or (bool(ptx) and kind != "f"))
