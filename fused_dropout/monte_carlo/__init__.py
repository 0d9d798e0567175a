"""Monte Carlo dropout: what a trained network predicts while its dropout layers keep dropping."""

from fused_dropout.monte_carlo.mode import mc_mode
from fused_dropout.monte_carlo.prediction import MCPrediction, mc_dropout

__all__ = ["MCPrediction", "mc_dropout", "mc_mode"]
