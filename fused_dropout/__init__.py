"""Fused dropout + bias + activation (+ residual, + norm) kernels and modules for PyTorch."""

from fused_dropout import _partitioner, functional  # noqa: F401  (tags what the compiler traces)
from fused_dropout._extension import _C
from fused_dropout._shard import Shard
from fused_dropout._state import new_rng_state
from fused_dropout.fusion import FusionError, FusionReport, fuse, fused, register_pattern, unfuse
from fused_dropout.modules import (
    MLP,
    AlphaDropout,
    BiasActDropout,
    BiasDropoutAdd,
    BiasGLUDropout,
    ConcreteDropout,
    DropBlock1d,
    DropBlock2d,
    DropBlock3d,
    DropConnectLinear,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropoutAddLayerNorm,
    DropoutAddRMSNorm,
    DropPath,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GatedMLP,
    GaussianDropout,
    LinearActDropout,
    LinearGLUDropout,
    LinearRamp,
    LockedDropout,
    Standout,
    WeightDrop,
    concrete_regularization,
    linear_drop_rates,
)
from fused_dropout.monte_carlo import MCPrediction, mc_dropout, mc_mode

__version__ = "0.1.0"

#: The version of the random-number contract: equal versions give equal masks for equal states.
RNG_CONTRACT_VERSION = _C.RNG_CONTRACT_VERSION


def build_info():
    """What this build was made of and what it uses.

    Returns:
        dict: ``version``, ``rng_contract``, ``torch`` (built against), ``torch_running``,
        ``compiler``, ``openmp``, ``cuda`` (toolkit, or None), ``cuda_architectures``,
        ``cpu_capabilities`` (found on this machine, best first) and ``cpu_capability`` (in use).
    """
    import torch

    return {
        "version": __version__,
        "rng_contract": RNG_CONTRACT_VERSION,
        "torch_running": torch.__version__,
        **_C.build_info(),
    }


__all__ = [
    "MLP",
    "RNG_CONTRACT_VERSION",
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
    "FusionError",
    "FusionReport",
    "GatedMLP",
    "GaussianDropout",
    "LinearActDropout",
    "LinearGLUDropout",
    "LinearRamp",
    "LockedDropout",
    "MCPrediction",
    "Shard",
    "Standout",
    "WeightDrop",
    "build_info",
    "concrete_regularization",
    "functional",
    "fuse",
    "fused",
    "linear_drop_rates",
    "mc_dropout",
    "mc_mode",
    "new_rng_state",
    "register_pattern",
    "unfuse",
]
