"""Tests of the CUDA kernels on a GPU; where there is none they are not collected.

FUSED_DROPOUT_TEST_DEVICE=cpu rehearses those that name no CUDA feature, against the CPU kernels.
"""

from on_device import DEVICE

if DEVICE is None:
    collect_ignore_glob = ["test_*.py"]
elif DEVICE == "cpu":
    collect_ignore_glob = ["test_gpu_graphs.py", "test_gpu_curand.py", "test_gpu_large.py"]
