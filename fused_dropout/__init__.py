"""Fused dropout + bias + activation (+ residual, + norm) kernels and modules for PyTorch."""

# These two register how torch.compile treats the operators.
from fused_dropout import _decomposition, _partitioner, functional, modules
from fused_dropout._extension import _C
from fused_dropout._shard import Shard
from fused_dropout._state import new_rng_state
from fused_dropout.fusion import (
    FusionError,
    FusionReport,
    fuse,
    fused,
    register_pattern,
    report,
    unfuse,
)
from fused_dropout.modules import *
from fused_dropout.monte_carlo import MCPrediction, mc_dropout, mc_mode

__version__ = "0.1.0"

#: The version of the random-number contract. Equal versions give equal masks for equal states.
RNG_CONTRACT_VERSION = _C.RNG_CONTRACT_VERSION


def build_info():
    """Describes how the package was built and what it uses on this machine.

    Returns:
        dict: `version`, `rng_contract` (version of the random-number contract), `torch` (version
            that the extension was built against), `torch_running`, `compiler`, `openmp`, `cuda`
            (version of the toolkit, or None), `cuda_architectures`, `cpu_capabilities`
            (instruction sets of this machine that have kernels, best first) and `cpu_capability`
            (the instruction set in use).
    """
    import torch

    return {
        "version": __version__,
        "rng_contract": RNG_CONTRACT_VERSION,
        "torch_running": torch.__version__,
        **_C.build_info(),
    }


__all__ = [
    *modules.__all__,
    "RNG_CONTRACT_VERSION",
    "FusionError",
    "FusionReport",
    "MCPrediction",
    "Shard",
    "build_info",
    "functional",
    "fuse",
    "fused",
    "mc_dropout",
    "mc_mode",
    "new_rng_state",
    "register_pattern",
    "report",
    "unfuse",
]
