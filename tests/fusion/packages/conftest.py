"""Leaves these tests out where the packages are missing that they are about."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # parity.py

_NEEDED = ("transformers", "timm", "torchvision")

collect_ignore_glob = []
if not all(importlib.util.find_spec(name) for name in _NEEDED):
    collect_ignore_glob.append("test_*.py")
