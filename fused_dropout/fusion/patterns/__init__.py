"""The patterns: a folder or file for each library whose modules can be fused."""
