"""Patterns for timm: feed-forward layers, attention, stochastic depth and residual blocks."""
