"""timm: feed-forward layers, attention, stochastic depth, and the blocks that they make."""

from fused_dropout.fusion.patterns.timm import block, layers, mlp  # noqa: F401  (add patterns)
