from fused_dropout.modules.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from fused_dropout.modules.gated import BiasGLUDropout, GatedMLP, LinearGLUDropout
from fused_dropout.modules.noise import (
    ConcreteDropout,
    GaussianDropout,
    Standout,
    concrete_regularization,
)
from fused_dropout.modules.norm import DropoutAddLayerNorm, DropoutAddRMSNorm
from fused_dropout.modules.pointwise import MLP, BiasActDropout, BiasDropoutAdd, LinearActDropout

__all__ = [
    "MLP",
    "AlphaDropout",
    "BiasActDropout",
    "BiasDropoutAdd",
    "BiasGLUDropout",
    "ConcreteDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAddLayerNorm",
    "DropoutAddRMSNorm",
    "FeatureAlphaDropout",
    "GatedMLP",
    "GaussianDropout",
    "LinearActDropout",
    "LinearGLUDropout",
    "Standout",
    "concrete_regularization",
]
