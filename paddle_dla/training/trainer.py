"""The run: epochs of updates, validation, checkpoints, and every way in which it can end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from paddle_dla.data.batch import Batch
from paddle_dla.launching.meeting import LostRankError
from paddle_dla.progress import StepClock
from paddle_dla.ranks import Ranks, gather
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.terminal import OutputError
from paddle_dla.training import checkpoints
from paddle_dla.training.agreement import total
from paddle_dla.training.datasets import Datasets, least_batch, train_loader
from paddle_dla.training.errors import FolderGoneError, NonFiniteError, Stopped, TrainingError
from paddle_dla.training.hold import Hold
from paddle_dla.training.log import RunLog
from paddle_dla.training.plan import Position
from paddle_dla.training.resuming import FOLDER
from paddle_dla.training.state import Best, Circumstances, capture, score_of
from paddle_dla.training.step import Learner, TrainStep
from paddle_dla.training.stopping import StopRequest
from paddle_dla.training.validation import Validator, refuse_different_weights, share_statistics


@dataclass
class Progressing:
    """The progress of the run, the only mutable state of the trainer."""

    position: Position = field(default_factory=Position)
    best: Best | None = None
    saved: Position | None = None


class Trainer:
    """Trains from a position to the end; see ``run``."""

    def __init__(
        self,
        around: Circumstances,
        datasets: Datasets,
        learner: Learner,
        ranks: Ranks,
        stop: StopRequest,
        hold: Hold,
        log: RunLog,
        at: Progressing,
    ):
        """``hold`` is the lock on the folder for checkpoints; ``at`` is the starting position, and is advanced."""
        self._around, self._datasets, self._learner, self._ranks = around, datasets, learner, ranks
        self._stop, self._hold, self._log, self.at = stop, hold, log, at
        self._folder = hold.folder / FOLDER
        self._config, self._plan = around.config, around.plan
        self._step = TrainStep(learner, around.config, ranks)
        self._validator = Validator(
            around.config, datasets, around.threads, ranks, stop, lambda: self._alive("validation")
        )

    def run(self) -> None:
        """Train to the end.

        If the run ends early, everything learnt until the last update is saved in a checkpoint, unless an update was
        half done. Raises ``Stopped`` if a signal asked for it, ``NonFiniteError`` for a loss or gradient that is NaN or
        infinite, ``FolderGoneError`` if the run's folder was removed or moved, ``DataError`` for unreadable data and
        ``CheckpointError`` for checkpoints that cannot be written.
        """
        try:
            while self.at.position.epoch < self._plan.epochs:
                self._train_epoch()
                self._finish_epoch()
        except CheckpointError as error:
            if self._hold.in_place:
                raise
            raise self._last_words(FolderGoneError(self._hold.folder)) from error
        except Exception as error:
            self._last_words(error)
            if is_lost_connection(error):
                lost = f"the connection to another rank is lost, it ended or hangs: {error}"
                raise TrainingError(lost).with_notes_of(error) from error
            raise

    def _last_words(self, error: Exception) -> Exception:
        """Save a checkpoint and record ``error`` in the log."""
        self._leave_checkpoint(error)
        self._tell(error)
        return error

    # --- an epoch ----------------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        epoch, start = self.at.position.epoch, self.at.position.batch
        loader = train_loader(self._config, self._datasets, self._ranks, epoch, start)
        self._learner.frozen.train(self._learner.network)
        clock = StepClock()
        with closing(iter(loader)) as source:
            batches = clock.over(source)
            while self.at.position.batch < self._plan.batches:
                self._update(batches, clock)
                self._save_within_epoch()

    def _update(self, batches: Iterator[Batch], clock: StepClock) -> None:
        begin, loss = self.at.position, 0.0
        size, update = self._plan.group(begin.batch), self._plan.updates(begin)
        self._step.begin()
        for place in range(begin.batch, begin.batch + size):
            at, batch = Position(begin.epoch, place), self._next(batches)
            last = place + 1 == begin.batch + size
            check = partial(self._check, batch=batch, at=at)
            loss += self._step.accumulate(batch, at, 1 / size, last, check) / size
        try:
            made = self._step.finish(update)
        except NonFiniteError as error:
            self._refuse(str(error), batch, at)
        self.at.position = Position(begin.epoch, begin.batch + size)
        values = {"loss": loss, "lr": made.lr, "grad_norm": made.grad_norm}
        self._log.train_step(begin.epoch, update + 1, values, clock)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        batch = next(batches, None)
        if batch is None:
            raise TrainingError(
                f"an epoch has {self._plan.batches} batches, but one of them had no image that can be read: mend or "
                "remove the images that were skipped"
            )
        if len(batch) < least_batch(self._config, self._ranks):
            raise TrainingError(
                f"a batch has {len(batch)} image left, from which BatchNorm learns nothing: mend or remove the images "
                "that were skipped, or make data.batch_size larger"
            )
        return batch

    def _check(self, loss: float, batch: Batch, at: Position) -> float:
        """Return the loss over all ranks; raise if one of the ranks cannot or must not continue."""
        bad, asked = not math.isfinite(loss), self._stop.reason is not None
        self._ranks.heart.beat("exchange", self._plan.updates(self.at.position) + 1)
        sums = total([loss, bad, asked], self._ranks)
        if sums[1]:
            self._refuse(f"the loss is {loss}", batch if bad else None, at)
        if sums[2]:
            raise Stopped(self._stop.reason or "a signal to another rank")
        return sums[0] / self._ranks.count

    def _refuse(self, what: str, batch: Batch | None, at: Position) -> NoReturn:
        """Undo the update and raise ``what``, with the layer at fault on each rank that has a ``batch``."""
        self._step.rewind()
        own = None if batch is None else f"{what}: {self._step.diagnosis(batch, at)}"
        causes = [f"rank {rank}: {cause}" for rank, cause in enumerate(gather(own, self._ranks)) if cause]
        raise NonFiniteError(f"{self._named(at)}: " + "; ".join(causes))

    def _named(self, at: Position) -> str:
        begin = Position(at.epoch, at.batch - at.batch % self._plan.accumulation)
        return f"step {self._plan.updates(begin) + 1} (epoch {at.epoch}, batch {at.batch})"

    # --- the end of an epoch -----------------------------------------------------------------------------------------

    def _finish_epoch(self) -> None:
        epoch = self.at.position.epoch
        refuse_different_weights(self._learner.network, self._ranks)
        scores = self._validate(epoch) if self._due(epoch, self._config.train.val_interval) else None
        score = None if scores is None else score_of(scores, self._config.train.eval_metric)
        better = False
        if score is not None and (self.at.best is None or score > self.at.best.score):
            self.at.best, better = Best(score, epoch + 1), True
        self.at.position = Position(epoch + 1)
        if better or self._due(epoch, self._config.train.save_interval) or self._recovery_due():
            self._save(scores, score)

    def _due(self, epoch: int, interval: int) -> bool:
        """Return whether something done every ``interval`` epochs (0: never) is due after this one; the last counts."""
        return interval > 0 and ((epoch + 1) % interval == 0 or epoch + 1 == self._plan.epochs)

    def _validate(self, epoch: int) -> dict[str, float] | None:
        if self._datasets.val is None:
            return None
        began, learner = time.perf_counter(), self._learner
        share_statistics(learner.network, learner.ema, self._ranks)
        scores = self._scores(epoch)
        if learner.ema is not None:
            with learner.ema.applied(learner.network):
                scores |= {f"ema_{name}": value for name, value in self._scores(epoch).items()}
        made = self._plan.updates(Position(epoch + 1))
        self._log.validation(epoch, made, scores, time.perf_counter() - began)
        return scores

    def _scores(self, epoch: int) -> dict[str, float]:
        scores = self._validator.scores(self._learner.network, epoch)
        self._ranks.heart.beat("validation", self._plan.updates(self.at.position))
        return scores

    def _alive(self, place: str) -> None:
        self._ranks.heart.beat(place, self._plan.updates(self.at.position))

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _recovery_due(self) -> bool:
        every = self._config.train.recovery_interval
        return every > 0 and self._plan.updates(self.at.position) % every == 0

    def _save_within_epoch(self) -> None:
        if self.at.position.batch < self._plan.batches and self._recovery_due():
            self._save()

    def _save(self, scores: dict[str, float] | None = None, score: float | None = None) -> None:
        """Save a checkpoint on the first rank, which has the complete state."""
        self._hold.check()
        self._write(scores, score)

    def _write(self, scores: dict[str, float] | None = None, score: float | None = None) -> None:
        if self._ranks.first:
            try:
                snapshot = capture(self._learner, self._around, self.at.position, self.at.best, scores, score)
            except NonFiniteError as error:
                raise NonFiniteError(f"after step {self._plan.updates(self.at.position)}: {error}") from None
            self._alive("checkpoint")
            checkpoints.write(self._folder, snapshot)
            checkpoints.rotate(self._folder, self._config.train.checkpoint_hist)
            self._alive("training")
        self.at.saved = self.at.position

    def _leave_checkpoint(self, error: Exception) -> None:
        """Save everything learnt until the last complete update before the run ends with ``error``, and note where."""
        if not self._ranks.first:
            return
        try:
            if not self._hold.in_place:
                self._begin_anew()
            if self._step.undoable and self.at.saved != self.at.position:
                self._step.rewind()
                self._write()
        except (CheckpointError, OSError, TrainingError) as also:
            error.add_note(f"no checkpoint could be written: {also}")
        if self.at.saved is not None:
            path = self._folder / checkpoints.folder_name(self.at.saved)
            error.add_note(f"the same command goes on from {path}")

    def _begin_anew(self) -> None:
        """Recreate the folder that was removed or moved, unless another run uses or has used that path since."""
        self._hold.take()
        there, own = {path.name for path in checkpoints.found(self._folder)}, set()
        if self.at.saved is not None:  # it may have been written after the folder was removed or moved
            own = {checkpoints.folder_name(self.at.saved)}
        if there - own:
            raise TrainingError(f"{self._folder} holds checkpoints of another run by now")
        if not there:
            self.at.saved = None

    def _tell(self, error: Exception) -> None:
        """Record how the run ended. If the disk is full, this may fail too."""
        kind = {Stopped: "stop", NonFiniteError: "nan"}.get(type(error), "error")
        with suppress(CheckpointError, FolderGoneError, OutputError):
            self._log.event(kind, str(error))


def is_lost_connection(error: Exception) -> bool:
    """Return whether another rank does not respond. Paddle has no exception type for gloo's errors."""
    return isinstance(error, LostRankError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
