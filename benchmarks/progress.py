"""A progress bar if tqdm is installed, lines of text otherwise."""

from __future__ import annotations

import sys
import time

try:
    from tqdm import tqdm as Progress
except ModuleNotFoundError:

    class Progress:
        """The part of tqdm's interface that the benchmarks use. Prints lines on stderr."""

        _EVERY_S = 5

        def __init__(self, items=None, *, total=None, desc="", unit="item"):
            self.items = items
            self.total = len(items) if total is None else total
            self.head = f"{desc}: " if desc else ""
            self.unit, self.text, self.done = unit, "", 0
            self.last = time.monotonic()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def __iter__(self):
            for item in self.items:
                yield item
                self.update()

        def update(self, count=1):
            self.done += count
            if time.monotonic() - self.last > self._EVERY_S:
                self._print()

        def set_postfix_str(self, text, refresh=True):
            self.text = text

        def close(self):
            self._print()

        def _print(self):
            self.last = time.monotonic()
            line = f"{self.head}{self.done} of {self.total} {self.unit}s {self.text}"
            print(line.rstrip(), file=sys.stderr, flush=True)
