"""The batches of an epoch: their samples, their worker, and the order of delivery. Arithmetic only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np


def share(num_samples: int, rank: int, ranks: int) -> range:
    """Return a rank's samples if no order is given: neighbours, each sample on exactly one rank."""
    return range(num_samples * rank // ranks, num_samples * (rank + 1) // ranks)


@dataclass(frozen=True)
class Plan:
    """The batches of one rank in one epoch.

    ``indices``: the rank's samples in order; ``turns``: the number of the repeat of each, all 0 if ``None``.
    ``workers`` is 1 or more. ``runs``: each worker makes neighbouring batches, out of the same files; otherwise workers
    alternate. Either way batch k holds the same samples, and the workers deliver one batch each in turn.
    """

    indices: Sequence[int] | np.ndarray
    turns: np.ndarray | None
    batch_size: int
    drop_last: bool = False
    workers: int = 1
    runs: bool = False

    @property
    def num_batches(self) -> int:
        """Number of batches of the whole epoch; the last may be smaller than the others unless ``drop_last``."""
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def batch(self, number: int) -> list[tuple[int, int]]:
        """Return (index, turn) of each sample of a batch."""
        place = slice(number * self.batch_size, (number + 1) * self.batch_size)
        turns = repeat(0) if self.turns is None else self.turns[place].tolist()
        return list(zip(map(int, self.indices[place]), turns))

    def deliveries(self, start: int = 0) -> list[tuple[int, int]]:
        """Return (batch, worker) in the order of delivery, without the first ``start``."""
        places = range(start, self.num_batches)
        if not self.runs:
            return [(place, place % self.workers) for place in places]
        first_of_run = np.cumsum([0, *map(len, np.array_split(np.arange(self.num_batches), self.workers))])
        return [
            (int(first_of_run[place % self.workers]) + place // self.workers, place % self.workers) for place in places
        ]
