"""Loads the compiled extension, and says what to do where it does not load."""

import torch

_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."


def _release(version):
    return tuple(version.split("+")[0].split(".")[:2])


try:
    from fused_dropout import _C
except ImportError as error:
    raise ImportError(
        f"fused_dropout: the compiled extension does not load beside torch {torch.__version__}: "
        f"{error}. It is missing or was built against another torch. Rebuild it from the source "
        f"folder with:\n    {_REBUILD}"
    ) from error

if _release(_C.TORCH_VERSION) != _release(torch.__version__):
    raise ImportError(
        f"fused_dropout was built against torch {_C.TORCH_VERSION}, but torch {torch.__version__} "
        f"is running. Rebuild it from the source folder with:\n    {_REBUILD}"
    )
