"""Progress of a run: a bar on a terminal, otherwise lines in PaddleClas's format."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TextIO, TypeVar

Item = TypeVar("Item", bound=Sized)


class StepClock:
    """Measures the seconds of each step: waiting for data (``reader_cost``), and in total (``batch_cost``)."""

    def __init__(self):
        self.images, self.steps = 0, 0
        self.reader_cost = self.batch_cost = 0.0

    def reset(self) -> None:
        """Start a new interval."""
        self.__init__()

    def over(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield ``batches`` and time each one, from its request to the next request."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.reader_cost += time.perf_counter() - asked
            yield batch
            self.batch_cost += time.perf_counter() - asked
            self.steps += 1
            self.images += len(batch)

    def costs(self) -> str:
        """Return ``batch_cost: 0.1 s, reader_cost: 0.0 s, ips: 80.0 images/sec.``, averaged over the interval."""
        steps = max(self.steps, 1)
        speed = self.images / self.batch_cost if self.batch_cost else 0.0
        return (
            f"batch_cost: {self.batch_cost / steps:.5f} s, reader_cost: {self.reader_cost / steps:.5f} s, "
            f"ips: {speed:.5f} images/sec."
        )


class Progress:
    """Reports on ``total`` samples: a bar if ``stream`` is a terminal, otherwise a line every ``interval`` steps.

    ``unit`` is what is counted. If it is steps, ``done`` of them were made before.
    """

    def __init__(
        self,
        total: int,
        interval: int = 10,
        stream: TextIO | None = None,
        quiet: bool = False,
        unit: str = "image",
        done: int = 0,
    ):
        self._stream = stream or sys.stderr
        self._interval, self._quiet, self._steps = interval, quiet, done
        self._bar = None
        if self._stream.isatty() and not quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=done, unit=unit, file=self._stream, dynamic_ncols=True)

    def step(self, images: int, values: str, line: str) -> bool:
        """Count one step of ``images``. Returns whether a line was due.

        ``values`` are shown beside a bar; without a bar, ``line`` is printed.
        """
        self._steps += 1
        due = self._steps % self._interval == 0
        if self._bar is not None:
            self._bar.set_postfix_str(values, refresh=False)
            self._bar.update(images)
        elif due and not self._quiet:
            print(line, file=self._stream, flush=True)
        return due

    def say(self, line: str) -> None:
        """Print a separate line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._stream)
        elif not self._quiet:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Restore the terminal."""
        if self._bar is not None:
            self._bar.close()
