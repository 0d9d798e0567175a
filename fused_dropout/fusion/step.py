"""Runs one training step of a model and records its dropout calls."""

from contextlib import contextmanager

import torch

from fused_dropout.fusion.calls import DropoutCalls
from fused_dropout.fusion.sites import DropoutSite


def dropout_calls_of_step(model, inputs, named_inputs):
    """A :class:`DropoutSite` for each dropout call of ``model(*inputs, **named_inputs)``.

    The model runs in training mode. Its flags and buffers and the random-number generators get back
    the values that they had before.
    """
    with _unchanged(model), DropoutCalls(model) as record:
        model.train()
        model(*inputs, **named_inputs)
    return [
        DropoutSite(
            call.name,
            call.function,
            call.kind,
            f"called in {call.place}" if call.kind == "torch" else "",
        )
        for call in record.calls
    ]


@contextmanager
def _unchanged(model):
    flags = {module: module.training for module in model.modules()}
    buffers = {buffer: buffer.detach().clone() for buffer in model.buffers()}
    devices = {one.device for one in (*model.parameters(), *model.buffers())}
    accelerators = [one for one in devices if one.type not in ("cpu", "meta")]
    kind = accelerators[0].type if accelerators else "cuda"
    with torch.random.fork_rng([one.index for one in accelerators], device_type=kind):
        try:
            yield
        finally:
            for module, flag in flags.items():
                module.training = flag
            with torch.no_grad():
                for buffer, value in buffers.items():
                    buffer.copy_(value)
