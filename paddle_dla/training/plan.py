"""The position of a run, and its updates. Computed from whole numbers; nothing is counted during training.

A *batch* is what one process reads at once; an *update* is one step of the optimizer, for which ``accumulation``
batches are read. As in timm (1.0.31 ``train.py``), the last update of an epoch uses the remaining batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, order=True)
class Position:
    """Position of a run: ``batch`` batches of epoch ``epoch`` are done, both counted from 0."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True)
class Plan:
    """The updates of a run. ``batches``: per process and epoch; an update has ``accumulation`` batches per process."""

    epochs: int
    batches: int
    accumulation: int = 1
    batch_size: int = 1
    ranks: int = 1

    @property
    def updates_per_epoch(self) -> int:
        """Updates per epoch."""
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
        """Return the number of updates from the start of the run to ``position``."""
        return position.epoch * self.updates_per_epoch + -(-position.batch // self.accumulation)

    def group(self, batch: int) -> int:
        """Return the number of batches in the update that starts at ``batch``."""
        return min(self.accumulation, self.batches - batch)

    def moved(self, position: Position, before: Plan) -> Position:
        """Convert a ``position`` of the plan ``before`` to this plan: the last start of an update not beyond it.

        The same number of images of the epoch is done. With the same plan, the position is unchanged.
        """
        if position.batch == before.batches:
            return Position(position.epoch, self.batches)
        done = position.batch * before.batch_size * before.ranks
        batch = min(done // (self.batch_size * self.ranks), self.batches)
        return Position(position.epoch, batch if batch == self.batches else batch - batch % self.accumulation)


def step_seed(seed: int, rank: int, position: Position) -> int:
    """Return the 32-bit seed that Paddle's generator gets before each batch.

    Dropout therefore depends only on seed, rank and position. Paddle 2.6 cannot save the state of its generator on a
    CPU; this scheme does not need it, and works for any number of ranks.
    """
    return int(np.random.SeedSequence([seed, rank, position.epoch, position.batch]).generate_state(1)[0])
