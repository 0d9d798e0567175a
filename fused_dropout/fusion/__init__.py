"""Replaces modules of existing models by fused ones, in place: ``fuse``, ``unfuse``, ``fused``.

The public names are those in ``__all__`` and the command
``python -m fused_dropout.fusion.fingerprint``. All other names in the files of this folder are
internal, although the files have no underscore in their names.

Files:
    fuse.py: the public functions.
    fusion_report.py: what ``fuse`` returns.
    sites.py, calls.py: the dropout sites of a model, from its code and from calls really made.
    registry.py: the list of patterns.
    patterns/: the patterns, a file or folder for each library.
    class_swap.py: changes the class of a module to its fused subclass and back.
    eligibility.py: decides whether a child of a fused module may be bypassed.
    fingerprint.py: recognises classes of other libraries by the source code of their ``forward``.
    fused_calls.py: the kernel calls that fused modules consist of.
    branches.py: child modules that end with dropout, which their block computes.
    structure/: rewrites code of any origin.
    functional_sites.py, redirected_classes.py, redirect.py, functional_dropout.py: dropout
        functions that the code of a module calls.
    activations.py, dropout_layers.py, drop_path.py: the child layers that those calls understand.
"""

from fused_dropout.fusion.fuse import fuse, fused, report, unfuse
from fused_dropout.fusion.fusion_report import FusionError, FusionReport, Site
from fused_dropout.fusion.registry import import_patterns, register_pattern
from fused_dropout.fusion.sites import DropoutSite

import_patterns("fused_dropout.fusion.functional_sites")
import_patterns("fused_dropout.fusion.patterns.torch_nn")
import_patterns("fused_dropout.fusion.structure.pattern")

__all__ = [
    "DropoutSite",
    "FusionError",
    "FusionReport",
    "Site",
    "fuse",
    "fused",
    "register_pattern",
    "report",
    "unfuse",
]
