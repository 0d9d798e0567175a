"""The reference implementation of every operator, in plain torch.

`fused_dropout.reference.contract` is the random-number contract. The other files, one for each
family, compute the operators with it. Each file lists its public names in `__all__`. No function
here calls the compiled extension, so the two can be tested against each other.

An `rng_state` is `[seed, offset]`: an int64 tensor of shape (2,), or two Python ints. The offset is
a non-negative multiple of 4. If a call draws nothing, `rng_state` may be `None`.
"""

from fused_dropout.reference import (
    activations,
    contract,
    drop_connect,
    embedding,
    gated,
    noise,
    norm,
    pointwise,
)
from fused_dropout.reference import drop_block as _drop_block  # a function has this name too
from fused_dropout.reference.activations import *
from fused_dropout.reference.contract import *
from fused_dropout.reference.drop_block import *
from fused_dropout.reference.drop_connect import *
from fused_dropout.reference.embedding import *
from fused_dropout.reference.gated import *
from fused_dropout.reference.noise import *
from fused_dropout.reference.norm import *
from fused_dropout.reference.pointwise import *

__all__ = [
    *activations.__all__,
    *contract.__all__,
    *_drop_block.__all__,
    *drop_connect.__all__,
    *embedding.__all__,
    *gated.__all__,
    *noise.__all__,
    *norm.__all__,
    *pointwise.__all__,
]
