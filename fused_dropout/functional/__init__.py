"""Functional interface: functions with the shapes and dtypes of their counterparts in torch.

There is one file for each family. A file lists its public names in `__all__`.
"""

import torch

# The file drop_block.py defines a function of the same name, which replaces it here.
from fused_dropout.functional import (
    attention,
    embedding,
    gated,
    noise,
    norm,
    pointwise,
)
from fused_dropout.functional import drop_block as drop_block_file
from fused_dropout.functional.attention import *
from fused_dropout.functional.drop_block import *
from fused_dropout.functional.embedding import *
from fused_dropout.functional.gated import *
from fused_dropout.functional.noise import *
from fused_dropout.functional.norm import *
from fused_dropout.functional.pointwise import *

__all__ = [
    *attention.__all__,
    *drop_block_file.__all__,
    *embedding.__all__,
    *gated.__all__,
    *noise.__all__,
    *norm.__all__,
    *pointwise.__all__,
]

# torch.fx records calls of these functions instead of tracing into them.
for _name in set(__all__) - {"ACTIVATIONS", "MODES", "dropout_mask"}:
    torch.fx.wrap(_name)
