"""Speed and memory of fused_dropout against eager PyTorch, torch.compile and a plain copy."""
