"""Runs the tests of `calls_without_kernels` in a process of their own."""

import subprocess
import sys
from pathlib import Path


def test_calls_on_a_device_without_kernels():
    file = Path(__file__).with_name("calls_without_kernels.py")
    command = [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=file.parents[2])
    assert result.returncode == 0, result.stdout
