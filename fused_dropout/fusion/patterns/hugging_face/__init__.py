"""Patterns for Hugging Face transformers: a file for each kind of block.

Its models repeat the same blocks under many names; they are recognised by the text of their
forward (see `fingerprint.py`), so that a pattern serves all families that share a text.
"""

from fused_dropout.fusion.patterns.hugging_face import (  # noqa: F401  (add patterns)
    activations,
    attention,
    bart,
    drop_path,
    feed_forward,
    gpt2,
    outputs,
    t5,
    vit,
)
