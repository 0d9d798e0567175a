"""What every kernel must compute, in plain torch.

:mod:`~fused_dropout.reference.contract` is the random-number contract; the other files are what is
computed with it. Nothing here calls the compiled extension, so the two can be checked against each
other.

An `rng_state` is `[seed, offset]`: an int64 tensor of shape (2,), or two Python ints. The offset is
a non-negative multiple of 4. Wherever nothing is drawn `rng_state` may be `None`.
"""

from fused_dropout import _exports
from fused_dropout.reference.activations import *
from fused_dropout.reference.contract import *
from fused_dropout.reference.drop_block import *
from fused_dropout.reference.drop_connect import *
from fused_dropout.reference.embedding import *
from fused_dropout.reference.gated import *
from fused_dropout.reference.noise import *
from fused_dropout.reference.norm import *
from fused_dropout.reference.pointwise import *

__all__ = _exports.public_names(__name__)
