"""The functions that rewritten code calls."""

from fused_dropout.fusion.branches import branch_of, linear_branch
from fused_dropout.fusion.fused_calls import (
    add,
    add_norm,
    add_then_norm,
    bias_act_drop,
    halves_glu_drop,
    linear_act_drop,
    linear_drop,
    linear_output_of_last_dim,
    two_linears_glu_drop,
)

__all__ = [
    "add",
    "add_norm",
    "add_then_norm",
    "bias_act_drop",
    "branch_of",
    "halves_glu_drop",
    "linear_act_drop",
    "linear_branch",
    "linear_drop",
    "linear_output_of_last_dim",
    "two_linears_glu_drop",
]
