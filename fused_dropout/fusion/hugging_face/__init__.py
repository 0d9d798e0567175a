"""Patterns for Hugging Face transformers: a file for each kind of block.

Its models repeat the same blocks under many names; they are recognised by the text of their
forward (see `_forms.py`), so that a pattern serves all families that share a text.
"""

from fused_dropout.fusion.hugging_face import (
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
