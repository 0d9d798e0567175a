"""Tests, benchmarks and checks on a machine with a GPU, the most valuable first: `make gpu-report`.

The main process imports neither torch nor fused_dropout. Child processes do everything that can
fail, hang or crash. So the report can start before the extension is built.
"""
