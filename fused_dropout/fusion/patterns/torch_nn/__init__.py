"""Patterns for the modules of torch.nn."""

from fused_dropout.fusion.patterns.torch_nn import (  # noqa: F401  (add patterns)
    attention,
    dropout,
    sequential,
    transformer,
)
