"""Measures cases in this process and yields the rows of the result."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .cases import CASES, Case
from .memory import measure
from .providers import make_inputs, make_provider, providers_of
from .timing import Effort, Sampler, summary, take_turns

SKIPPED = "skipped: no time left to compile"


@dataclass(frozen=True)
class Unit:
    """A case with a shape and a dtype."""

    case: str
    rows: int
    cols: int
    dtype: str

    @property
    def shape(self) -> str:
        """The shape in the notation of the command line."""
        return f"{self.rows}x{self.cols}"


class Runner:
    """Measures units with the given providers on one device, in one memory mode.

    After `compile_s` seconds no compilation is started, and the provider is reported as skipped.
    """

    def __init__(self, device, providers: list[str], memory: str, effort: Effort, compile_s: float):
        self.device, self.providers, self.memory = device, providers, memory
        self.effort = effort
        self.no_compile_after = time.monotonic() + compile_s

    def run(self, unit: Unit, note) -> Iterator[dict]:
        """Yields a row for each provider and direction, or one with the error of a provider.

        `note(text)` is called with the current activity.
        """
        if "compile" in self.providers:  # otherwise the compiler does not have to be loaded
            torch.compiler.reset()
        case, dtype = CASES[unit.case], getattr(torch, unit.dtype)
        tensors, dy = make_inputs(case, (unit.rows, unit.cols), dtype, self.device.name)
        head = {"case": unit.case, "dtype": unit.dtype, "shape": unit.shape, "memory": self.memory}

        samplers, counts = {}, {}
        possible = providers_of(unit.case, self.device.name)
        for name in (name for name in self.providers if name in possible):
            note(f"{name}, warm-up")
            if name == "compile" and time.monotonic() > self.no_compile_after:
                yield {**head, "provider": name, "error": SKIPPED}
                continue
            try:
                sampler = Sampler(make_provider(name, case, tensors), dy, self.device)
                counts[name] = sampler.prepare(self.effort)
                samplers[name] = sampler
            except Exception as error:  # the failure of a provider is a result
                yield {**head, "provider": name, "error": _one_line(error)}

        self._sample(samplers, counts, note)
        copy = samplers.get("copy")
        copy_ms = statistics.median(copy.times["fwd"]) if copy else None
        for name, sampler in samplers.items():
            note(f"{name}, memory")
            for row in self._rows(case, sampler, copy_ms):
                yield {**head, "provider": name, **row}

    def _sample(self, samplers: dict[str, Sampler], counts: dict[str, int], note) -> None:
        order = list(take_turns(counts))
        gc.collect()
        gc.disable()
        try:
            for i, name in enumerate(order):
                if i % len(counts) == 0:
                    note(f"sample {i + 1} of {len(order)}")
                samplers[name].sample()
        finally:
            gc.enable()

    def _rows(self, case: Case, sampler: Sampler, copy_ms: float | None) -> Iterator[dict]:
        provider = sampler.provider
        x = provider.tensors["x"]
        common = {
            "samples": len(sampler.page_faults),
            "calls": sampler.calls,
            "page_faults": statistics.median(sampler.page_faults),
            "preemptions": statistics.median(sampler.preemptions),
        }
        peaks = {}
        if provider.wrt:
            kept, peaks = measure(provider, sampler.dy, self.device)
            common["saved_bytes_per_element"] = kept["saved_bytes_total"] / x.numel()
            common |= kept
        for direction, times in sampler.times.items():
            stats = summary(times)
            passes = 2 if provider.name == "copy" else case.passes(direction)
            yield {
                **common,
                "direction": direction,
                **stats,
                "gbps": passes * x.nbytes / stats["median_ms"] * 1e-6,
                "vs_copy": copy_ms and stats["median_ms"] / copy_ms,
                "vs_least": copy_ms and stats["median_ms"] / (copy_ms * passes / 2),
                "peak_bytes": peaks.get(direction),
            }


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
