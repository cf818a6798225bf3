"""Where a run stands, and which updates there are. Whole numbers alone: nothing is counted while it trains.

A *batch* is what one process reads at once; an *update* is one step of the optimizer, for which ``accumulation``
batches are read. As in timm (1.0.31 ``train.py``), the last update of an epoch takes what batches are left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, order=True)
class Position:
    """``batch`` batches of epoch ``epoch`` are done, both counted from 0."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Plan:
    """``batches``: of each process in an epoch; ``images``: of an update of ``accumulation`` batches, all processes."""

    epochs: int
    batches: int
    accumulation: int = 1
    batch_size: int = 1
    ranks: int = 1

    @property
    def updates_per_epoch(self) -> int:
        """Updates in an epoch."""
        return -(-self.batches // self.accumulation)

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.epochs * self.updates_per_epoch

    @property
    def images(self) -> int:
        """Images of a full update, over all processes: the global batch."""
        return self.batch_size * self.ranks * self.accumulation

    def updates(self, position: Position) -> int:
        """Updates made at ``position``, since the beginning of the run."""
        return position.epoch * self.updates_per_epoch + -(-position.batch // self.accumulation)

    def group(self, batch: int) -> int:
        """How many batches the update takes that begins at ``batch``."""
        return min(self.accumulation, self.batches - batch)

    def moved(self, position: Position, before: Plan) -> Position:
        """The nearest beginning of an update to ``position`` of a run by the plan ``before``, not beyond it.

        As many images of the epoch are done; with the same plan it is the same position.
        """
        if position.batch == before.batches:
            return Position(position.epoch, self.batches)
        done = position.batch * before.batch_size * before.ranks
        batch = min(done // (self.batch_size * self.ranks), self.batches)
        return Position(position.epoch, batch if batch == self.batches else batch - batch % self.accumulation)


def step_seed(seed: int, rank: int, position: Position) -> int:
    """What Paddle's generator is seeded with before each batch, 32 bits.

    Dropout so depends on seed, rank and position alone. Paddle 2.6 cannot write down the state of its generator on a
    CPU; this needs none, and holds for any number of ranks.
    """
    return int(np.random.SeedSequence([seed, rank, position.epoch, position.batch]).generate_state(1)[0])
