"""Monte Carlo dropout: predictions of a trained network whose dropout layers stay active."""

from fused_dropout.monte_carlo.mode import mc_mode
from fused_dropout.monte_carlo.prediction import MCPrediction, mc_dropout

__all__ = ["MCPrediction", "mc_dropout", "mc_mode"]
