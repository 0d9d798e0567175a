"""Ignores the tests of this folder if one of the packages that they test is not installed."""

import importlib.util

_NEEDED = ("transformers", "timm", "torchvision", "peft")

collect_ignore_glob = []
if not all(importlib.util.find_spec(name) for name in _NEEDED):
    collect_ignore_glob.append("test_*.py")
