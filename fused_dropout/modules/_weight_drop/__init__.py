"""How `fused_dropout.WeightDrop` calls a module with other weights."""
