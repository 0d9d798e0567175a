"""A schedule for the probability to drop."""

import threading

import torch
from torch import nn

from fused_dropout.functional._arguments import probability

__all__ = ["LinearRamp"]

_STEP_LOCK = threading.Lock()  # shared, because an attribute would prevent copies and pickles


class LinearRamp:
    """Changes the probability `p` of modules linearly from one value to another during training.

    DropBlock is harmful early in training and helps late, so the paper starts with p = 0 and ends
    with the desired value. The schedule works for every module with an attribute `p`, torch's own
    dropout layers included.

    If `p` of a module is a tensor, the new value is written into the tensor. Under `torch.compile`
    set it to `torch.tensor(0.1, dtype=torch.float64)`, so that new values do not cause
    recompilation.

    As in torch, `p` is not in the state dict of a module. Save `state_dict()` of the schedule
    instead. `load_state_dict()` sets `p` of the modules too.

    Example:

        blocks = [m for m in model.modules() if isinstance(m, fd.DropBlock2d)]
        ramp = fd.LinearRamp(blocks, steps=epochs * len(loader))
        for x, target in loader:
            ...
            optimizer.step()
            ramp.step()

    Source: Ghiasi, Lin and Le, "DropBlock: a regularization method for convolutional networks",
    NeurIPS 2018, "Scheduled DropBlock".

    Args:
        modules: a module with an attribute `p`, or several.
        steps: number of calls of `step()` until the end.
        start: the first value. The constructor sets it.
        end: the last value. None means the current `p` of each module.

    Raises:
        TypeError: if one of the modules has no `p`.
        ValueError: if `steps` is not a positive integer, or a probability is not between 0 and 1.
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
            raise ValueError(f"LinearRamp: steps is {steps!r}, but expected a positive integer")
        self.steps = steps
        self.start = float(probability(start, "LinearRamp", "start"))
        ends = [module.p if end is None else end for module in self.modules]
        self.ends = [float(probability(value, "LinearRamp", "end")) for value in ends]
        self.count = 0
        self._apply()

    def step(self):
        """Advances by one step. After the last step nothing changes.

        Several threads may call it at the same time, and every call counts. Concurrent calls of
        the modules use either the old or the new value.
        """
        with _STEP_LOCK:
            self.count = min(self.count + 1, self.steps)
            self._apply()

    def state_dict(self):
        """Returns all values of the schedule as a dict, without the modules.

        Returns:
            dict: `count` (steps so far), `steps`, `start` and `ends`, one for each module.
        """
        return {
            "count": self.count,
            "steps": self.steps,
            "start": self.start,
            "ends": list(self.ends),
        }

    def load_state_dict(self, state):
        """Continues a schedule from its `state_dict()` and sets `p` of the modules.

        Args:
            state: the dict. It must be from a schedule of as many modules, in the same order.

        Raises:
            ValueError: if the number of modules differs.
        """
        if len(state["ends"]) != len(self.modules):
            raise ValueError(
                f"LinearRamp: state has {len(state['ends'])} modules, but expected "
                f"{len(self.modules)}"
            )
        self.count, self.steps, self.start = state["count"], state["steps"], state["start"]
        self.ends = list(state["ends"])
        self._apply()

    def _apply(self):
        done = self.count / self.steps
        for module, end in zip(self.modules, self.ends, strict=True):
            # With this formula the last value is exact.
            value = self.start * (1 - done) + end * done
            if isinstance(module.p, torch.Tensor):
                module.p.fill_(value)
            else:
                module.p = value
