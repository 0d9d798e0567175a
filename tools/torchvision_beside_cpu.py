"""Imports torchvision, which timm needs, beside a torch for the CPU too.

The published build of torchvision loads its operators only beside a torch for CUDA. Without them
the import fails, because it declares what two of them compute on fake tensors. No model of timm
calls these, so it is enough that they are declared.
"""

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def import_torchvision():
    """The module ``torchvision``."""
    try:
        import torchvision
    except RuntimeError:
        for name in ("nms", "qnms"):
            _LIBRARY.define(name + _SCHEMA)
        import torchvision
    return torchvision
