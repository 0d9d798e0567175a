"""One line to speed up an existing model: ``fuse``, ``unfuse`` and the patterns behind them.

A file a pattern, or a family of them: `dropout.py` for single layers, `sequential.py` for runs of
layers, `transformer.py` for torch's transformer layers, and the others for those of other packages.
What they share is in files with an underscore.
"""

from fused_dropout.fusion import dropout, sequential, transformer
from fused_dropout.fusion._fuse import fuse, fused, unfuse
from fused_dropout.fusion._patterns import register_pattern
from fused_dropout.fusion._report import FusionError, FusionReport, Place

__all__ = [
    "FusionError",
    "FusionReport",
    "Place",
    "fuse",
    "fused",
    "register_pattern",
    "unfuse",
]
