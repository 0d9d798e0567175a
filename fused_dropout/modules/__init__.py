"""Modules, one file for each family. A file lists its public names in `__all__`."""

from fused_dropout.modules import (
    drop_block,
    drop_connect,
    dropout,
    embedding,
    gated,
    noise,
    norm,
    pointwise,
    ramp,
    structured,
    weight_drop,
)
from fused_dropout.modules.drop_block import *
from fused_dropout.modules.drop_connect import *
from fused_dropout.modules.dropout import *
from fused_dropout.modules.embedding import *
from fused_dropout.modules.gated import *
from fused_dropout.modules.noise import *
from fused_dropout.modules.norm import *
from fused_dropout.modules.pointwise import *
from fused_dropout.modules.ramp import *
from fused_dropout.modules.structured import *
from fused_dropout.modules.weight_drop import *

__all__ = [
    *drop_block.__all__,
    *drop_connect.__all__,
    *dropout.__all__,
    *embedding.__all__,
    *gated.__all__,
    *noise.__all__,
    *norm.__all__,
    *pointwise.__all__,
    *ramp.__all__,
    *structured.__all__,
    *weight_drop.__all__,
]
