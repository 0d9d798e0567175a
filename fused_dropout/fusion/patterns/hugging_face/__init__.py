"""Patterns and layers of Hugging Face transformers.

Attention and stochastic depth have patterns. Its blocks need none: ``structure/`` rewrites their
code. These files tell it which layers compute an activation or a linear layer.
"""
