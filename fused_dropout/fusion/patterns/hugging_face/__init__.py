"""Patterns for Hugging Face transformers: a file for each kind of block.

Its models contain copies of the same blocks under many class names. A block is recognised by the
source code of its ``forward`` (see ``fingerprint.py``), so one pattern serves all model families
that have the same code.
"""
