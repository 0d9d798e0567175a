"""The 16 bytes of random state that a call consumes."""

import torch

import fused_dropout._extension  # noqa: F401  (registers the operators)


def new_rng_state(device="cpu", generator=None):
    """Draws a fresh state, to be passed as ``rng_state=`` to any call that shall use its mask.

    Args:
        device: where the state lies; it has to be the device of the tensors it is used with.
        generator: a ``torch.Generator`` of that device; the default one if None. Not under
            ``torch.compile``.

    Returns:
        Tensor: int64 ``[seed, offset]``. The mask is a function of these two numbers alone: see
        "The random-number contract" in the README.
    """
    # Under torch.compile, two equal calls are merged unless an argument is fresh for each;
    # `torch.empty` is one of the operators that are never merged.
    token = torch.empty(2, dtype=torch.int64, device=device)
    return torch.ops.fused_dropout.draw_rng_state(token, None, generator=generator)
