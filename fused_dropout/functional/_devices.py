"""Which devices have kernels in this build, and the warning for those that have none."""

import warnings

from fused_dropout._extension import _C

# Calls on the meta device have results without values, and no other implementation to choose.
_WITH_KERNELS = {"cpu", "meta"}
if _C.build_info()["cuda"] is not None:
    _WITH_KERNELS.add("cuda")

_REMEDY = {
    "cuda": (
        "The build had no CUDA toolkit, or was told to leave CUDA out. To build the kernels, run "
        "in the source folder, beside a torch for CUDA:\n"
        "    FORCE_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .\n"
        "If there is no toolkit, it fails with the command that installs one."
    )
}

_warned = set()


def has_kernels(device_or_tensor):
    """Whether this build has kernels for tensors of a device, or for this tensor.

    The tensor can be a traced one, whose device counts. True on the meta device.

    Args:
        device_or_tensor: a `torch.device` or a tensor.
    """
    if getattr(device_or_tensor, "is_cpu", False):  # several times as fast as the rest
        return True
    device = getattr(device_or_tensor, "device", device_or_tensor)
    return device.type in _WITH_KERNELS


def warn_without_kernels(device):
    """Warns once a process for each type of device that this build has no kernels for it.

    Args:
        device: a `torch.device`.
    """
    _warn_once(device.type)


def _warn_once(device_type):
    if device_type in _warned:
        return
    _warned.add(device_type)
    remedy = _REMEDY.get(device_type, "There are kernels for CPU and CUDA tensors only.")
    warnings.warn(
        f"fused_dropout: this build has no kernels for {device_type} tensors. torch's own dropout "
        "runs instead and stores its masks; a call with rng_state, generator or shard keeps the "
        f"masks of this package and runs as a slower composition of torch operators. {remedy}",
        stacklevel=3,
    )


# torch.compile calls it while it traces. `torch.compiler.assume_constant_result` sets the same
# attribute, but imports torch._dynamo, which takes seconds.
_warn_once._dynamo_marked_constant = True
