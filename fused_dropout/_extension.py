"""Loads the compiled extension. If that fails, the error says what to do."""

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_PUBLIC = torch.__version__.split("+")[0]
_REBUILD = (
    "Rebuild it from the source folder with:\n"
    "    pip install --no-build-isolation --force-reinstall --no-deps .\n"
    "or install a wheel for this torch, built on another machine with:\n"
    f"    make wheel PYTHON=python{sys.version_info[0]}.{sys.version_info[1]} TORCH={_PUBLIC}"
)


def _release(version):
    return tuple(version.split("+")[0].split(".")[:2])


def _reason_not_loaded(error):
    folder = Path(__file__).parent
    if any((folder / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
        return (
            f"the compiled extension does not load with torch {torch.__version__}: {error}. It "
            "was built against another torch."
        )
    built = ", ".join(sorted(file.name for file in folder.glob("_C.*.so")))
    return (
        f"there is no compiled extension for Python {sys.version_info[0]}.{sys.version_info[1]} in "
        f"{folder}{f', only {built}' if built else ''}. If this is the source folder and the "
        "package is installed, start Python in another folder."
    )


try:
    from fused_dropout import _C
except ImportError as error:
    raise ImportError(f"fused_dropout: {_reason_not_loaded(error)} {_REBUILD}") from error

if _release(_C.TORCH_VERSION) != _release(torch.__version__):
    raise ImportError(
        f"fused_dropout was built against torch {_C.TORCH_VERSION}, but torch {torch.__version__} "
        f"is running. {_REBUILD}"
    )
