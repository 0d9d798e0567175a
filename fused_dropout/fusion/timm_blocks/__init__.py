"""timm: feed-forward layers, attention, stochastic depth, and the blocks that they make."""

from fused_dropout.fusion.timm_blocks import block, layers, mlp
