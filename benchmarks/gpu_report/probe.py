"""Prints facts about Python, torch, the package and the GPU as one line of JSON.

It runs in a child process, because the import of torch may fail.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import platform
from pathlib import Path


def probe() -> dict:
    """Returns the facts that determine whether a report can start.

    "gpu" is None if there is no GPU. "package" is the folder of the package that Python would
    import, and "modules" are the compiled modules in it. "import_error" is None if the import
    succeeds. In this case there is also "build_info".
    """
    found = {
        "python": platform.python_version(),
        "suffixes": importlib.machinery.EXTENSION_SUFFIXES,
        "cores": len(os.sched_getaffinity(0)),
        **_package(),
        **_torch(),
    }
    if found["package"] and found["torch"]:
        found |= _build()
    return found


def _package() -> dict:
    spec = importlib.util.find_spec("fused_dropout")
    if spec is None or not spec.submodule_search_locations:
        return {"package": None, "modules": []}
    folder = Path(next(iter(spec.submodule_search_locations)))
    return {"package": str(folder), "modules": sorted(one.name for one in folder.glob("_C*.so"))}


def _torch() -> dict:
    found = {"torch": None, "torch_error": None, "gpu": None}
    try:
        import torch

        found |= {"torch": torch.__version__, "cuda": torch.version.cuda}
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name()
            found["capability"] = list(torch.cuda.get_device_capability())
            found["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    except Exception as error:  # the parent process reports it
        found["torch_error"] = f"{type(error).__name__}: {error}"
    return found


def _build() -> dict:
    try:
        import fused_dropout

        return {"import_error": None, "build_info": fused_dropout.build_info()}
    except Exception as error:
        return {"import_error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    print(json.dumps(probe()))
