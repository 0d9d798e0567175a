"""Modules. Each file lists its public names in `__all__`."""

from fused_dropout import _exports
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

__all__ = _exports.public_names(__name__)
