"""Which batches there are in an epoch, what is in each, who makes it and when it is handed on. Arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np


def share(num_samples: int, rank: int, ranks: int) -> range:
    """A rank's samples where no order is given: neighbours, each sample on exactly one rank, none twice."""
    return range(num_samples * rank // ranks, num_samples * (rank + 1) // ranks)


@dataclass(frozen=True)
class Plan:
    """The batches of one rank in one epoch.

    ``indices``: the rank's samples in order; ``turns``: which repeat of its sample each is, all 0 where ``None``.
    ``workers`` is 1 or more. ``runs``: each worker makes neighbouring batches, out of the same files; otherwise they
    take turns. Either way batch k holds the same samples, and worker by worker one batch is handed on in turn.
    """

    indices: Sequence[int] | np.ndarray
    turns: np.ndarray | None
    batch_size: int
    drop_last: bool = False
    workers: int = 1
    runs: bool = False

    @property
    def num_batches(self) -> int:
        """Batches of the whole epoch; the last may be smaller than the others unless ``drop_last``."""
        whole, rest = divmod(len(self.indices), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def batch(self, number: int) -> list[tuple[int, int]]:
        """(index, turn) of each sample of a batch."""
        place = slice(number * self.batch_size, (number + 1) * self.batch_size)
        turns = repeat(0) if self.turns is None else self.turns[place].tolist()
        return list(zip(map(int, self.indices[place]), turns))

    def deliveries(self, start: int = 0) -> list[tuple[int, int]]:
        """(batch, worker) in the order of handing on, without the first ``start``."""
        places = range(start, self.num_batches)
        if not self.runs:
            return [(place, place % self.workers) for place in places]
        first_of_run = np.cumsum([0, *map(len, np.array_split(np.arange(self.num_batches), self.workers))])
        return [
            (int(first_of_run[place % self.workers]) + place // self.workers, place % self.workers) for place in places
        ]
