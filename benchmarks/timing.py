"""Samples the time of forward and backward of several providers in turn."""

from __future__ import annotations

import math
import resource
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .providers import Provider

DIRECTIONS = ("fwd", "bwd", "fwd+bwd")
_SMALL = 1 << 14  # elements up to which a sample is the mean of many calls


@dataclass(frozen=True)
class Effort:
    """The time to spend: samples fill `budget_s` for each provider, within the two bounds."""

    budget_s: float = 1.0
    min_samples: int = 7
    max_samples: int = 41
    sample_ms: float = 2.0  # calls on small tensors are repeated to fill this


QUICK = Effort(budget_s=0.05, min_samples=3, max_samples=7, sample_ms=0.5)


class Sampler:
    """Times one provider. `prepare` warms it up and determines the number of calls and samples."""

    def __init__(self, provider: Provider, dy: tuple[torch.Tensor, ...], device):
        self.provider, self.dy, self.device = provider, dy, device
        self.calls = 1
        self.times: dict[str, list[float]] = {}
        self.page_faults: list[int] = []  # one number per sample
        self.preemptions: list[int] = []  # one number per sample

    def prepare(self, effort: Effort) -> int:
        """Warms up (compilation included) and returns the number of samples to take."""
        self._once()
        total_ms = max(self._once().values())
        if self.dy[0].numel() <= _SMALL:
            self.calls = 20
            forward_ms = min(self._many()["fwd"] for _ in range(3))
            self.calls = max(2, min(1000, math.ceil(effort.sample_ms / forward_ms)))
            total_ms = 5 * effort.sample_ms  # `_many` runs forward three times and backward twice
        wanted = int(effort.budget_s * 1e3 / total_ms)
        return min(max(wanted, effort.min_samples), effort.max_samples)

    def sample(self):
        """Takes one sample of every direction."""
        before = resource.getrusage(resource.RUSAGE_SELF)
        times = self._once() if self.calls == 1 else self._many()
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.page_faults.append(after.ru_minflt - before.ru_minflt)
        self.preemptions.append(after.ru_nivcsw - before.ru_nivcsw)
        for direction, ms in times.items():
            self.times.setdefault(direction, []).append(ms)

    def _once(self) -> dict[str, float]:
        """Times one forward and one backward. Results are freed after the last time stamp."""
        device, provider = self.device, self.provider
        device.settle()
        start = device.mark()
        y = provider.forward()
        middle = device.mark()
        if not provider.wrt:
            return {"fwd": device.elapsed_ms(start, middle)}
        grads = provider.backward(y, self.dy)
        end = device.mark()
        del y, grads
        return {
            "fwd": device.elapsed_ms(start, middle),
            "bwd": device.elapsed_ms(middle, end),
            "fwd+bwd": device.elapsed_ms(start, end),
        }

    def _many(self) -> dict[str, float]:
        """Returns the mean time of many short calls, each direction in its own loop."""
        provider, dy, calls = self.provider, self.dy, range(self.calls)

        def forwards():
            for _ in calls:
                provider.forward()

        def backwards(outputs):
            for y in outputs:
                provider.backward(y, dy)

        def both():
            for _ in calls:
                provider.backward(provider.forward(), dy)

        times = {"fwd": self._mean(forwards)}
        if provider.wrt:
            times["bwd"] = self._mean(backwards, [provider.forward() for _ in calls])
            times["fwd+bwd"] = self._mean(both)
        return times

    def _mean(self, function, *args) -> float:
        self.device.synchronize()
        start = self.device.mark()
        function(*args)
        end = self.device.mark()
        return self.device.elapsed_ms(start, end) / self.calls


def take_turns(counts: dict[str, int]) -> Iterator[str]:
    """Yields names in turn, A B C A B C …, with lower counts spread evenly over the rounds."""
    rounds = max(counts.values(), default=0)
    for i in range(rounds):
        for name, count in counts.items():
            if (i + 1) * count // rounds > i * count // rounds:
                yield name


def summary(times: list[float]) -> dict[str, float]:
    """Returns the median and the 20th and 80th percentile."""
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return {"median_ms": statistics.median(times), "p20_ms": p20, "p80_ms": p80}
