"""What a call keeps for its backward, and how much memory it takes at most."""

from __future__ import annotations

import torch

from .providers import Provider, outputs_of


def measure(provider: Provider, dy, device) -> tuple[dict[str, int], dict[str, int]]:
    """One forward and backward under observation: bytes kept in between, peak per direction.

    Kept: "saved_bytes_total", the storages that autograd saves and that are neither input nor
    output of the call; "retained_bytes", the growth of memory from before to after forward less
    the output, a second measure that also sees what is hidden from autograd's hooks.

    The peaks count from just before forward: output, gradients and temporaries are in them, the
    inputs and the upstream gradient are not.
    """
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    def forward():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return provider.forward()

    y, forward_peak, between = device.track(forward)
    grads, backward_peak, _ = device.track(lambda: provider.backward(y, dy))
    del grads
    for tensor in (*outputs_of(y), *provider.tensors.values()):
        saved.pop(tensor.untyped_storage().data_ptr(), None)
    kept = {
        "saved_bytes_total": sum(saved.values()),
        "retained_bytes": between - sum(t.untyped_storage().nbytes() for t in outputs_of(y)),
    }
    peaks = {"fwd": forward_peak, "bwd": between + backward_peak}
    return kept, peaks | {"fwd+bwd": max(peaks.values())}
