"""Patterns for the modules of torch.nn: dropout layers, ``Sequential`` and transformer layers."""
