"""One update: forward and backward passes of its batches, then clipping, optimizer and moving average.

Until ``finish``, the only state that changes and that later steps depend on is BatchNorm's statistics. ``begin`` keeps
a copy of them, and ``rewind`` restores it: an update can be stopped anywhere and repeated bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import paddle
from paddle import Tensor
from paddle.distributed.fleet.utils.hybrid_parallel_util import fused_allreduce_gradients

from paddle_dla.config import Config
from paddle_dla.data.batch import Batch
from paddle_dla.ema import ModelEma
from paddle_dla.optim import NamedOptimizer, clip_grad_norm_, clip_grad_value_
from paddle_dla.optim.clip import global_norm
from paddle_dla.ranks import Ranks
from paddle_dla.schedule import Schedule
from paddle_dla.training.assembly import Criterion
from paddle_dla.training.errors import NonFiniteError
from paddle_dla.training.modes import Frozen, running_statistics
from paddle_dla.training.nonfinite import first_non_finite, last_bad_gradient
from paddle_dla.training.plan import Position, step_seed


@dataclass(frozen=True)
class Learner:
    """Network, loss, optimizer and their companions. ``scaler`` is used with float16 only."""

    network: paddle.nn.Layer
    frozen: Frozen
    criterion: Criterion
    optimizer: NamedOptimizer
    schedule: Schedule
    ema: ModelEma | None = None
    scaler: paddle.amp.GradScaler | None = None


@dataclass(frozen=True)
class Update:
    """Results of an update: its learning rate, and the norm of all gradients before clipping."""

    lr: float
    grad_norm: float


class TrainStep:
    """Makes updates of ``learner`` on this rank; with several ranks, all must make the same calls."""

    def __init__(self, learner: Learner, config: Config, ranks: Ranks):
        self._learner, self._ranks = learner, ranks
        self._train = config.train
        # lamb clips its own gradients
        self._clip = None if config.optimizer.name == "lamb" else config.optimizer.clip_grad
        self._clip_mode = config.optimizer.clip_mode
        ranks.meet()  # before the weights of the first rank are sent to the others
        self._model = paddle.DataParallel(learner.network) if ranks.count > 1 else learner.network
        # DataParallel does not see the backward pass within recomputation: gradients are exchanged after it
        self._exchange_after = ranks.count > 1 and config.train.recompute
        self._statistics: list[tuple[Tensor, Tensor]] = []
        self.undoable = True
        """Whether ``rewind`` leads to the end of a complete update; false while weights change."""

    def begin(self) -> None:
        """Prepare for the first batch of an update."""
        self.undoable = True
        self._statistics = [(tensor, tensor.clone()) for tensor in running_statistics(self._learner.network)]

    @paddle.no_grad()
    def rewind(self) -> None:
        """Undo everything since ``begin``; between two updates there is nothing to undo."""
        for tensor, before in self._statistics:
            paddle.assign(before, tensor)
        self._learner.optimizer.clear_grad()

    def accumulate(
        self, batch: Batch, at: Position, share: float, last: bool, check: Callable[[float], float]
    ) -> float:
        """Add ``share`` of the gradient of the loss of ``batch``, which is the one at ``at``.

        ``check`` is called with the loss before the gradient is added. It may raise, and its result is returned. Ranks
        exchange gradients with the ``last`` batch of an update.
        """
        images, target = paddle.to_tensor(batch.images), paddle.to_tensor(batch.labels)
        alone = self._ranks.count > 1 and (self._exchange_after or not last)
        with self._model.no_sync() if alone else nullcontext():
            loss = self._loss(self._model, images, target, at)
            value = check(float(loss))
            scaled = loss * share if self._learner.scaler is None else self._learner.scaler.scale(loss * share)
            scaled.backward()
        if last and self._exchange_after:
            fused_allreduce_gradients(self._model.parameters(), None)
        return value

    def _loss(self, model: paddle.nn.Layer, images: Tensor, target: Tensor, at: Position) -> Tensor:
        paddle.seed(step_seed(self._train.seed, self._ranks.rank, at))
        with self._mixed_precision():
            logits = model(images)
        return self._learner.criterion(logits, target, images)

    def _mixed_precision(self) -> AbstractContextManager:
        amp = self._train.amp
        return nullcontext() if amp == "none" else paddle.amp.auto_cast(level="O1", dtype=amp)

    def finish(self, update: int) -> Update:
        """Make update number ``update`` (from 0) from the accumulated gradients.

        Raises ``NonFiniteError`` for gradients that are not finite, before any weight is changed.
        """
        learner = self._learner
        if learner.scaler is not None:
            learner.scaler.unscale_(learner.optimizer)
        norm = self._clipped()
        if learner.scaler is None and not math.isfinite(norm):
            raise NonFiniteError(f"the gradient is {norm} first at {last_bad_gradient(learner.optimizer)}")
        self.undoable = False
        lr = learner.schedule(update)
        learner.optimizer.set_lr(lr)
        if learner.scaler is None:
            learner.optimizer.step()
        else:
            learner.scaler.step(learner.optimizer)
            learner.scaler.update()
        learner.optimizer.clear_grad()
        if learner.ema is not None:
            learner.ema.update(learner.network, update + 1)
        self._statistics, self.undoable = [], True
        return Update(lr, norm)

    def _clipped(self) -> float:
        """Clip the gradients according to the config. Returns the norm of all gradients before clipping."""
        parameters = [parameter for _, parameter in self._learner.optimizer.named_parameters()]
        if self._clip is not None and self._clip_mode == "norm":
            return float(clip_grad_norm_(parameters, self._clip))
        with paddle.no_grad():
            norm = float(global_norm([parameter.grad for parameter in parameters if parameter.grad is not None]))
        if self._clip is not None:
            clip_grad_value_(parameters, self._clip)
        return norm

    def diagnosis(self, batch: Batch, at: Position) -> str:
        """Describe the first layer whose output is not finite for ``batch``; call it after ``rewind``."""
        images, target = paddle.to_tensor(batch.images), paddle.to_tensor(batch.labels)
        if not bool(paddle.isfinite(images).all()):
            return "the images themselves are not finite"
        found = first_non_finite(self._learner.network, lambda: self._loss(self._learner.network, images, target, at))
        self.rewind()
        return found or "the output of every layer is finite for this batch"
