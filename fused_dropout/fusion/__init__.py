"""One line to speed up an existing model: ``fuse``, ``unfuse`` and the patterns behind them.

A file a pattern, or a family of them: `dropout.py` for single layers, `sequential.py` for runs of
layers, `transformer.py` for torch's transformer layers, and the others for those of other packages.
What they share is in files with an underscore.
"""

from fused_dropout.fusion.fuse import fuse, fused, unfuse
from fused_dropout.fusion.patterns import torch_nn  # noqa: F401  (add patterns)
from fused_dropout.fusion.registry import register_pattern
from fused_dropout.fusion.report import FusionError, FusionReport, Place

__all__ = [
    "FusionError",
    "FusionReport",
    "Place",
    "fuse",
    "fused",
    "register_pattern",
    "unfuse",
]
