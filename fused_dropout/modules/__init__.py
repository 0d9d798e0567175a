from fused_dropout.modules.drop_block import DropBlock1d, DropBlock2d, DropBlock3d
from fused_dropout.modules.drop_connect import DropConnectLinear
from fused_dropout.modules.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from fused_dropout.modules.embedding import EmbeddingDropout
from fused_dropout.modules.gated import BiasGLUDropout, GatedMLP, LinearGLUDropout
from fused_dropout.modules.noise import (
    ConcreteDropout,
    GaussianDropout,
    Standout,
    concrete_regularization,
)
from fused_dropout.modules.norm import DropoutAddLayerNorm, DropoutAddRMSNorm
from fused_dropout.modules.pointwise import MLP, BiasActDropout, BiasDropoutAdd, LinearActDropout
from fused_dropout.modules.ramp import LinearRamp
from fused_dropout.modules.structured import DropPath, LockedDropout, linear_drop_rates
from fused_dropout.modules.weight_drop import WeightDrop

__all__ = [
    "MLP",
    "AlphaDropout",
    "BiasActDropout",
    "BiasDropoutAdd",
    "BiasGLUDropout",
    "ConcreteDropout",
    "DropBlock1d",
    "DropBlock2d",
    "DropBlock3d",
    "DropConnectLinear",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAddLayerNorm",
    "DropoutAddRMSNorm",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GatedMLP",
    "GaussianDropout",
    "LinearActDropout",
    "LinearGLUDropout",
    "LinearRamp",
    "LockedDropout",
    "Standout",
    "WeightDrop",
    "concrete_regularization",
    "linear_drop_rates",
]
