"""What differs between devices: time stamps and the tracking of allocations."""

from __future__ import annotations

import time

import torch

_SLEEP_CYCLES = 2_000_000  # about a millisecond


class Cpu:
    """Time from the wall clock, allocations from the memory events of torch's profiler."""

    name = "cpu"
    default_shape = (8192, 4096)

    def synchronize(self):
        """Does nothing: operators on the CPU have finished when they return."""

    def settle(self):
        """Does nothing: the CPU needs no preparation before a time is taken."""

    def mark(self):
        """Returns a time stamp."""
        return time.perf_counter_ns()

    def elapsed_ms(self, start, end) -> float:
        """Returns the milliseconds between two time stamps."""
        return (end - start) * 1e-6

    def track(self, function):
        """Returns `function()`, the highest and the final change of the bytes allocated."""
        with torch.autograd.profiler.profile(profile_memory=True) as profiler:
            result = function()
        now = peak = 0
        events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            now += event.nbytes()
            peak = max(peak, now)
        return result, peak, now


class Cuda:
    """Time from events on the current stream, allocations from the allocator's counters."""

    name = "cuda"
    default_shape = (32768, 4096)

    def __init__(self):
        # 256 MB: several times the largest cache, of some 60 MB.
        self._flushing = torch.zeros(1 << 26, device="cuda")
        self._flushed = torch.empty((), device="cuda")

    def synchronize(self):
        """Waits for the device."""
        torch.cuda.synchronize()

    def settle(self):
        """Empties the cache, and keeps the device busy while the timed work is queued.

        So the time of a kernel does not include the wait for its launch. The cache is emptied by
        reading. If it was written to, the kernel would have to write these lines back to memory
        while it evicts them.
        """
        torch.cuda.synchronize()
        torch.sum(self._flushing, 0, out=self._flushed)
        torch.cuda._sleep(_SLEEP_CYCLES)

    def mark(self):
        """Returns a time stamp on the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def elapsed_ms(self, start, end) -> float:
        """Returns the milliseconds between two time stamps; waits for the second one."""
        end.synchronize()
        return start.elapsed_time(end)

    def track(self, function):
        """Returns `function()`, the highest and the final change of the bytes allocated."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = function()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        return result, peak, torch.cuda.memory_allocated() - before


DEVICES = {"cpu": Cpu, "cuda": Cuda}
