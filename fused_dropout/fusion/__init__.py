"""Replaces modules of existing models by fused ones, in place: ``fuse``, ``unfuse``, ``fused``.

The public names are those in ``__all__`` and the command
``python -m fused_dropout.fusion.fingerprint``. All other names in the files of this folder are
internal, although the files have no underscore in their names.

Files:
    fuse.py: the public functions.
    report.py: what ``fuse`` returns.
    registry.py: the list of patterns.
    patterns/: the patterns, a file or folder for each library.
    class_swap.py: changes the class of a module to its fused subclass and back.
    eligibility.py: decides whether a child of a fused module may be bypassed.
    fingerprint.py: recognises classes of other libraries by the source code of their ``forward``.
    fused_calls.py: the kernel calls that fused modules consist of.
    activations.py, dropout_layers.py, drop_path.py: the child layers that those calls understand.
"""

from fused_dropout.fusion.fuse import fuse, fused, unfuse
from fused_dropout.fusion.registry import import_patterns, register_pattern
from fused_dropout.fusion.report import FusionError, FusionReport, Site

import_patterns("fused_dropout.fusion.patterns.torch_nn")

__all__ = [
    "FusionError",
    "FusionReport",
    "Site",
    "fuse",
    "fused",
    "register_pattern",
    "unfuse",
]
