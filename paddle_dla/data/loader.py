"""Batches of a source, made by worker processes. Order and random numbers do not depend on the workers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np

from paddle_dla.data.batch import Batch
from paddle_dla.data.batching import BatchMaker, BatchTransform, Job, SampleTransform
from paddle_dla.data.crew import Crew
from paddle_dla.data.errors import DataError
from paddle_dla.data.plan import Plan, share
from paddle_dla.data.slots import Layout
from paddle_dla.data.source import Source
from paddle_dla.errors import WrongValue

SHOWN = 20  # images listed in an error


class Loader:
    """Iterate over one epoch's batches of one rank; each iteration starts its own workers and ends them.

    Order and randomness. Batches come in order. Sample transforms draw from (seed, epoch, index, turn), batch
    transforms from (seed, epoch, rank, batch): any number of workers gives the same batches, also from ``start_batch``
    on. For a sequential source (shards) the batches are the same too, but each worker makes a run of neighbouring
    batches, so that only it reads those files, and workers deliver in turn. The order of the batches, and what
    ``start_batch`` skips, then depends on ``workers``.

    Lifetime. With workers, a batch's arrays are views into shared memory, valid until the next batch is requested: copy
    what is kept longer. With ``workers=0`` they belong to the caller.

    Corrupt images are left out, up to ``max_skipped`` on this rank, and listed in ``skipped``. Their batch is shorter
    (an empty batch is dropped), so a training step must not rely on ``batch_size``.
    """

    def __init__(
        self,
        source: Source,
        transform: SampleTransform,
        batch_size: int,
        *,
        output_shape: Sequence[int],
        output_dtype: str | np.dtype = "float32",
        batch_transform: BatchTransform | None = None,
        soft_labels: int = 0,
        order: Sequence[int] | np.ndarray | None = None,
        turns: Sequence[int] | np.ndarray | None = None,
        epoch: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        drop_last: bool = False,
        start_batch: int = 0,
        max_skipped: int = 0,
        timeout: float = 120.0,
        seed: int = 0,
        prefetch: int = 2,
    ):
        """Check all options; nothing is started before the first batch is requested.

        ``transform`` and ``batch_transform``: see ``SampleTransform`` and ``BatchTransform``. ``output_shape`` and
        ``output_dtype``: of one image in a finished batch, (H, W, C) or (C, H, W). ``soft_labels``: K if the batch
        transform makes labels of (B, K).
        ``order``: this rank's samples (see ``sampling.py``); ``turns``, of the same length, distinguishes the repeats
        of a sample. Without ``order`` the source is split over ``ranks`` into runs of neighbours, each sample on
        exactly one of them, as evaluation needs.
        ``start_batch``: number of batches to skip, to resume in the middle of an epoch. ``timeout``: seconds that a
        worker may spend on one sample or batch transform. ``prefetch``: number of batches that each worker has room
        for.
        Raises ``ValueError`` for invalid options.
        """
        _check(batch_size=(batch_size, 1), ranks=(ranks, 1), workers=(workers, 0), max_skipped=(max_skipped, 0))
        _check(seed=(seed, 0), epoch=(epoch, 0), prefetch=(prefetch, 1), soft_labels=(soft_labels, 0))
        if not 0 <= rank < ranks:
            raise WrongValue(f"rank is 0 to {ranks - 1}, not {rank}")
        if not timeout > 0:
            raise WrongValue(f"timeout is in seconds, above 0, not {timeout}")
        indices = share(source.num_samples, rank, ranks) if order is None else _order(order, source.num_samples)
        plan = Plan(indices, _turns(turns, order), batch_size, drop_last, max(workers, 1), source.sequential)
        if not 0 <= start_batch <= plan.num_batches:
            raise WrongValue(f"start_batch is 0 to {plan.num_batches}, the number of batches, not {start_batch}")
        layout = Layout(
            plan.workers, prefetch, batch_size, tuple(output_shape), np.dtype(output_dtype).str, soft_labels
        )
        self._job = Job(source, transform, batch_transform, plan, layout, seed, epoch, rank, start_batch, order is None)
        self._workers = workers
        self._timeout = timeout
        self._max_skipped = max_skipped
        self.skipped: list[tuple[str, str]] = []

    @property
    def num_batches(self) -> int:
        """Number of batches of the whole epoch on this rank."""
        return self._job.plan.num_batches

    def __len__(self) -> int:
        """Number of batches of an iteration, if no batch loses all of its images."""
        return self.num_batches - self._job.start

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield the batches; see the class.

        Raises ``DataError`` for a broken source or too many corrupt images, ``WorkerError`` for a worker that dies or
        hangs and for a transform that fails.
        """
        self.skipped = []
        return self._from_workers() if self._workers else self._from_here()

    def _from_here(self) -> Generator[Batch, None, None]:
        images, labels, indices = self._job.layout.fields()
        with closing(BatchMaker(self._job)) as maker:
            for number in self._job.numbers(worker=0):
                arrays = np.empty(*images), np.empty(*labels), np.empty(*indices)
                count, skipped = maker.make(number, arrays)
                self._count(skipped)
                if count:
                    yield Batch(*(array[:count] for array in arrays))

    def _from_workers(self) -> Generator[Batch, None, None]:
        with closing(Crew(self._job, self._timeout)) as crew:
            for _, worker in self._job.plan.deliveries(self._job.start):
                done = crew.receive(worker)
                self._count(done.skipped)
                if done.count:
                    yield Batch(*(array[: done.count] for array in crew.arrays(worker, done.slot)))
                crew.release(worker, done.slot)

    def _count(self, skipped: list[tuple[str, str]]) -> None:
        self.skipped += skipped
        if len(self.skipped) > self._max_skipped:
            lines = [f"  {name}: {reason}" for name, reason in self.skipped[:SHOWN]]
            if len(self.skipped) > SHOWN:
                lines.append(f"  ... and {len(self.skipped) - SHOWN} more")
            raise DataError(
                f"unusable images: {len(self.skipped)}, at most {self._max_skipped} may be skipped; repair or remove "
                "them, or let more be skipped:\n" + "\n".join(lines)
            )


def _check(**options: tuple[int, int]) -> None:
    for name, (value, least) in options.items():
        if value < least:
            raise WrongValue(f"{name} is {least} or more, not {value}")


def _order(order: Sequence[int] | np.ndarray, num_samples: int) -> np.ndarray:
    indices = np.asarray(order)
    if indices.size == 0:
        indices = indices.astype(np.int64)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise WrongValue(f"order is a list of indices, not {indices.dtype} of shape {indices.shape}")
    if len(indices) and not 0 <= indices.min() <= indices.max() < num_samples:
        raise WrongValue(f"order has indices from {indices.min()} to {indices.max()}; the source has {num_samples}")
    return indices.astype(np.int64)


def _turns(turns: Sequence[int] | np.ndarray | None, order: Sequence[int] | np.ndarray | None) -> np.ndarray | None:
    if turns is None:
        return None
    if order is None or len(turns) != len(order):
        raise WrongValue("turns belong to an order and are as many")
    return np.asarray(turns, np.int64)
