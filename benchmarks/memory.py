"""Memory that a call saves for backward, and its peak memory."""

from __future__ import annotations

import torch

from .providers import Provider, outputs_of


def measure(provider: Provider, dy, device) -> tuple[dict[str, int], dict[str, int]]:
    """Measures one forward and backward: bytes saved between them, and the peak of each direction.

    "saved_bytes_total" is the size of the storages that autograd saves and that are neither inputs
    nor outputs of the call. "retained_bytes" is the growth of memory during forward without the
    output. It includes what autograd's hooks do not see.

    The peaks are relative to the memory just before forward. They include output, gradients and
    temporaries, but not the inputs and the upstream gradient.
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
