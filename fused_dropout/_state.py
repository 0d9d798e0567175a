"""The random state of a call: a seed and an offset."""

import torch

from fused_dropout.functional._arguments import check_generator


def new_rng_state(device="cpu", generator=None):
    """Draws a random state. Calls that get the same state as `rng_state=` use the same mask.

    Args:
        device: the device of the state. It must be the device of the tensors that the state is
            used with; CUDA tensors take a state on the CPU too.
        generator: a `torch.Generator` of that device, or None for the default generator. Not
            supported under `torch.compile`.

    Returns:
        Tensor: int64 tensor `[seed, offset]` of shape (2,). A mask is a function of these two
            numbers and the index of an element: see "The random-number contract".

    Example:

        state = fd.new_rng_state(x.device)
        y = FF.dropout(x, 0.1, rng_state=state)
        z = FF.dropout(x, 0.1, rng_state=state)  # equal to y
    """
    check_generator("new_rng_state", generator)
    # torch.compile merges two calls with equal arguments. A fresh `torch.empty` for each call
    # prevents that, because `torch.empty` itself is never merged.
    token = torch.empty(2, dtype=torch.int64, device=device)
    return torch.ops.fused_dropout.draw_rng_state(token, None, generator=generator)
