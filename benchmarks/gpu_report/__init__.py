"""Everything that a machine with a GPU can say, the most valuable first: `make gpu-report`.

The process that the user starts imports neither torch nor fused_dropout: whatever can fail, hang or
crash is done by children. So the report begins where the extension is not built yet.
"""
