"""Speed and memory of fused_dropout compared with eager PyTorch, torch.compile and a copy."""
