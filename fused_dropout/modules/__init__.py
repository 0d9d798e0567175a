from fused_dropout.modules.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    FeatureAlphaDropout,
)
from fused_dropout.modules.pointwise import MLP, BiasActDropout, BiasDropoutAdd, LinearActDropout

__all__ = [
    "MLP",
    "AlphaDropout",
    "BiasActDropout",
    "BiasDropoutAdd",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "LinearActDropout",
]
