"""A probability to drop that grows in the course of training."""

import threading

import torch
from torch import nn

from fused_dropout.functional._arguments import probability

__all__ = ["LinearRamp"]

_STEPPING = threading.Lock()  # none of a ramp's own, which could not be copied or pickled


class LinearRamp:
    """Lets the probability ``p`` of some modules go linearly from one value to another.

    DropBlock hurts early in training and helps late, so that the paper begins with p = 0 and ends
    with the value wanted. The same serves any module with a ``p``, torch's own dropout included.

    Args:
        modules: a module with an attribute ``p``, or several.
        steps: after how many calls of :meth:`step` the end is reached.
        start: the first value, which is set at once.
        end: the last value; the ``p`` that each module has now if None.

    Example::

        blocks = [m for m in model.modules() if isinstance(m, fd.DropBlock2d)]
        ramp = fd.LinearRamp(blocks, steps=epochs * len(loader))
        for x, target in loader:
            ...
            optimizer.step()
            ramp.step()

    A ``p`` that is a tensor is written into rather than replaced: under ``torch.compile`` make it
    ``torch.tensor(0.1, dtype=torch.float64)``, and its new values need no new graph.

    ``p`` is no part of a module's state dict, as in torch. :meth:`state_dict` has the place and the
    values; loading it sets the ``p`` of the modules too.

    Source of the schedule: Ghiasi, Lin and Le, "DropBlock: a regularization method for
    convolutional networks", NeurIPS 2018, "Scheduled DropBlock".
    """

    def __init__(self, modules, steps, *, start=0.0, end=None):
        self.modules = [modules] if isinstance(modules, nn.Module) else list(modules)
        for module in self.modules:
            if not isinstance(module, nn.Module) or not hasattr(module, "p"):
                raise TypeError(
                    f"LinearRamp: modules has a {type(module).__name__}, but expected modules with "
                    "a probability p"
                )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"LinearRamp: steps is {steps!r}, but expected a number from 1 on")
        self.steps = steps
        self.start = float(probability(start, "LinearRamp", "start"))
        ends = [module.p if end is None else end for module in self.modules]
        self.ends = [float(probability(value, "LinearRamp", "end")) for value in ends]
        self.count = 0
        self._apply()

    def step(self):
        """Goes one step further. Beyond the last one nothing changes.

        Threads may call it at once: no step is lost. Calls of the modules meanwhile use either the
        old or the new value.
        """
        with _STEPPING:
            self.count = min(self.count + 1, self.steps)
            self._apply()

    def state_dict(self):
        """Everything but the modules, in the order that they were given in."""
        return {
            "count": self.count,
            "steps": self.steps,
            "start": self.start,
            "ends": list(self.ends),
        }

    def load_state_dict(self, state):
        """Continues where another ramp, over as many modules, was."""
        if len(state["ends"]) != len(self.modules):
            raise ValueError(
                f"LinearRamp: the state is of {len(state['ends'])} modules, but there are "
                f"{len(self.modules)}"
            )
        self.count, self.steps, self.start = state["count"], state["steps"], state["start"]
        self.ends = list(state["ends"])
        self._apply()

    def _apply(self):
        done = self.count / self.steps
        for module, end in zip(self.modules, self.ends, strict=True):
            # In this form the end is met exactly.
            value = self.start * (1 - done) + end * done
            if isinstance(module.p, torch.Tensor):
                module.p.fill_(value)
            else:
                module.p = value
