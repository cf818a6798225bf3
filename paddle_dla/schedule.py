"""Learning-rate schedules: pure functions of the number of updates made. No framework, no hidden state.

They match timm 1.0.31 ``timm/scheduler/{step,multistep,cosine,poly}_lr.py``; ``create_schedule`` matches its
``create_scheduler_v2``. A schedule does not depend on an optimizer: ``schedule(update)`` is the rate for update number
``update``, counted from 0 over the whole run. A resumed run therefore needs no state except that number.

Left out: noise, and the schedules that react to a metric. Added: ``total_epochs`` of a run is part of the schedule.

PaddleClas (2.6, ``ppcls/optimizer/learning_rate.py``) warms up per update from 0, starts the cosine at the end of the
warm-up, and counts the warm-up among its epochs. That is ``create_schedule("cosine", lr, epochs - warmup_epochs,
warmup_epochs=warmup_epochs, warmup_lr=0.0, warmup_prefix=True, per_epoch=False, updates_per_epoch=n)``, or
``paddleclas_cosine`` below.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from paddle_dla.errors import WrongValue

SCHEDULES = ("cosine", "poly", "step", "multistep", "constant")
SCALINGS = ("none", "linear", "sqrt")


# --- the curves, over t = 0, 1, ... in epochs or in updates ----------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """The constant rate ``lr``."""

    lr: float

    def __call__(self, t: float) -> float:
        return self.lr


@dataclass(frozen=True)
class Step:
    """``lr * decay_rate ** (t // decay_t)``."""

    lr: float
    decay_t: float
    decay_rate: float = 0.1

    def __call__(self, t: float) -> float:
        return self.lr * self.decay_rate ** (t // self.decay_t)


@dataclass(frozen=True)
class MultiStep:
    """``lr * decay_rate ** n``, where n is the number of ``milestones`` (ascending) that are at most t + 1.

    In timm a milestone of m takes effect at t = m - 1; in torch's and PaddleClas's schedules, at t = m. To reproduce a
    milestone m of theirs, pass m + 1.
    """

    lr: float
    milestones: tuple[float, ...]
    decay_rate: float = 0.1

    def __call__(self, t: float) -> float:
        return self.lr * self.decay_rate ** bisect.bisect_right(self.milestones, t + 1)


@dataclass(frozen=True)
class Cycles:
    """Cycles of ``t_initial``, each ``mul`` times as long as the one before it.

    Cycle i starts at ``lr * decay ** i``. From cycle ``limit`` (counted from 0) on, the rate stays at ``lr_min``.
    """

    t_initial: float
    lr_min: float = 0.0
    mul: float = 1.0
    decay: float = 1.0
    limit: int = 1

    def value(self, lr: float, t: float, shape: Callable[[float, float], float]) -> float:
        """Return the rate at t; ``shape(t in the cycle, length of the cycle)`` falls from 1 to 0."""
        cycle, t_in_cycle, length = self._locate(t)
        if cycle >= self.limit:
            return self.lr_min
        return self.lr_min + (lr * self.decay**cycle - self.lr_min) * shape(t_in_cycle, length)

    def length(self) -> float:
        """Return the total length of all cycles."""
        if self.mul == 1:
            return self.t_initial * self.limit
        return math.floor(self.t_initial * (self.mul**self.limit - 1) / (self.mul - 1))

    def _locate(self, t: float) -> tuple[int, float, float]:
        if self.mul == 1:
            return int(t // self.t_initial), t % self.t_initial, self.t_initial
        cycle = math.floor(math.log(1 - t / self.t_initial * (1 - self.mul), self.mul))
        start = (1 - self.mul**cycle) / (1 - self.mul) * self.t_initial
        return cycle, t - start, self.mul**cycle * self.t_initial


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``lr`` to ``cycles.lr_min`` (https://arxiv.org/abs/1608.03983), with restarts.

    ``k_decay`` is that of https://arxiv.org/abs/2004.05909.
    """

    lr: float
    cycles: Cycles
    k_decay: float = 1.0

    def __call__(self, t: float) -> float:
        k = self.k_decay
        return self.cycles.value(self.lr, t, lambda at, length: 0.5 * (1 + math.cos(math.pi * at**k / length**k)))


@dataclass(frozen=True)
class Poly:
    """``(1 - t / t_initial) ** power`` from ``lr`` to ``cycles.lr_min``, with restarts; ``k_decay`` as ``Cosine``'s."""

    lr: float
    cycles: Cycles
    power: float = 0.5
    k_decay: float = 1.0

    def __call__(self, t: float) -> float:
        k = self.k_decay
        return self.cycles.value(self.lr, t, lambda at, length: (1 - at**k / length**k) ** self.power)


@dataclass(frozen=True)
class Warmup:
    """A straight line from ``lr_init`` to ``lr`` over the first ``length`` of t, then ``curve``.

    With ``prefix`` the curve starts at the end of the line. Without, the line replaces the start of the curve, and the
    rate jumps at the end of the line if the curve has fallen by then.
    """

    curve: Callable[[float], float]
    lr: float
    length: float = 0
    lr_init: float = 0.0
    prefix: bool = False

    def __call__(self, t: float) -> float:
        if t < self.length:
            return self.lr_init + t * ((self.lr - self.lr_init) / self.length)
        return self.curve(t - self.length if self.prefix else t)


# --- a whole run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """The rate of every update of a run of ``total_epochs``.

    ``curve`` is a function of epochs if ``per_epoch``, else of updates. ``updates_per_epoch`` counts updates of the
    optimizer: batches divided by the number of accumulated ones.
    """

    curve: Callable[[int], float]
    total_epochs: int
    updates_per_epoch: int
    per_epoch: bool = True

    def __call__(self, update: int) -> float:
        """Return the rate for this update; the first is 0. Raises ``ValueError`` for a negative number."""
        if update < 0:
            raise WrongValue(f"an update is a number from 0 on, not {update}")
        return self.curve(update // self.updates_per_epoch if self.per_epoch else update)


def create_schedule(
    name: str,
    lr: float,
    epochs: float,
    updates_per_epoch: int = 1,
    *,
    per_epoch: bool = True,
    warmup_epochs: float = 0,
    warmup_lr: float = 1e-5,
    warmup_prefix: bool = False,
    cooldown_epochs: int = 0,
    min_lr: float = 0.0,
    decay_epochs: float = 90,
    decay_milestones: Sequence[float] = (90, 180, 270),
    decay_rate: float = 0.1,
    cycle_mul: float = 1.0,
    cycle_decay: float = 0.1,
    cycle_limit: int = 1,
    k_decay: float = 1.0,
) -> Schedule:
    """Create a schedule of ``SCHEDULES`` with the arguments and defaults of timm's ``create_scheduler_v2``.

    ``lr`` is the highest rate. With ``per_epoch`` the rate changes only between epochs, otherwise at each update. All
    lengths are in epochs either way. ``decay_rate`` is the power of ``poly``. ``cooldown_epochs`` are added at the end
    at ``min_lr`` (cosine and poly). ``total_epochs`` of the result is the length of the training, with cycles, warm-up
    prefix and cool-down.

    Raises ``ValueError`` for an unknown name and for invalid values.
    """
    _refuse(name, lr, epochs, updates_per_epoch, warmup_epochs, decay_epochs, decay_milestones, warmup_lr, min_lr)
    unit = 1 if per_epoch else updates_per_epoch
    cycles = Cycles(epochs * unit, min_lr, cycle_mul, cycle_decay, cycle_limit)
    curves = {
        "cosine": lambda: Cosine(lr, cycles, k_decay),
        "poly": lambda: Poly(lr, cycles, decay_rate, k_decay),
        "step": lambda: Step(lr, decay_epochs * unit, decay_rate),
        "multistep": lambda: MultiStep(lr, tuple(m * unit for m in decay_milestones), decay_rate),
        "constant": lambda: Constant(lr),
    }
    warm = Warmup(curves[name](), lr, warmup_epochs * unit, warmup_lr, warmup_prefix)
    before = warmup_epochs * unit if warmup_prefix else 0
    if name in ("cosine", "poly"):
        total = (cycles.length() + before + cooldown_epochs * unit) // unit
    else:
        total = epochs + before // unit
    return Schedule(warm, int(total), updates_per_epoch, per_epoch)


def paddleclas_cosine(lr: float, epochs: int, updates_per_epoch: int, warmup_epochs: float = 5) -> Schedule:
    """PaddleClas's cosine with warm-up per update, ``epochs`` in all: its DLA recipe has lr 0.04 at batch 512."""
    if not 0 <= warmup_epochs < epochs:
        raise WrongValue(f"{warmup_epochs} epochs of warm-up leave nothing of {epochs} epochs")
    return create_schedule(
        "cosine",
        lr,
        epochs - warmup_epochs,
        updates_per_epoch,
        per_epoch=False,
        warmup_epochs=warmup_epochs,
        warmup_lr=0.0,
        warmup_prefix=True,
    )


def scale_lr(lr: float, global_batch: int, base_batch: int = 256, rule: str = "linear") -> float:
    """Scale ``lr`` from ``base_batch`` to ``global_batch`` samples per update, over all ranks and accumulated batches.

    ``linear`` multiplies by the ratio, ``sqrt`` by its square root (timm's choice for adaptive optimizers), ``none``
    keeps ``lr``. As timm 1.0.31 ``train.py`` (``--lr-base``). Raises ``ValueError`` for another rule or an empty batch.
    """
    if rule not in SCALINGS:
        raise WrongValue(f"the rule is one of {', '.join(SCALINGS)}, not {rule!r}")
    if global_batch < 1 or base_batch < 1:
        raise WrongValue(f"a batch has at least one sample, not {min(global_batch, base_batch)}")
    ratio = global_batch / base_batch
    return lr * {"none": 1.0, "linear": ratio, "sqrt": ratio**0.5}[rule]


# --- applying it to an optimizer --------------------------------------------------------------------------------------


class HasRate(Protocol):
    """The part of an optimizer that a scheduler uses."""

    def set_lr(self, value: float) -> None:
        """Set the rate."""


@dataclass(frozen=True)
class Scheduler:
    """Sets the rate of ``optimizer`` for its next update, as timm's schedulers do; starts after ``updates`` updates."""

    optimizer: HasRate
    schedule: Callable[[int], float]
    updates: int = field(default=0, repr=False)

    def __post_init__(self):
        self.step_update(self.updates)

    def step_update(self, num_updates: int) -> None:
        """Set the rate after ``num_updates`` updates in total."""
        self.optimizer.set_lr(self.schedule(num_updates))


def _refuse(
    name: str,
    lr: float,
    epochs: float,
    updates_per_epoch: int,
    warmup_epochs: float,
    decay_epochs: float,
    milestones: Sequence[float],
    *rates: float,
) -> None:
    if name not in SCHEDULES:
        raise WrongValue(f"there is no schedule {name!r}; known are {', '.join(SCHEDULES)}")
    if epochs <= 0 or updates_per_epoch < 1:
        raise WrongValue(f"a run has epochs and updates in each, not {epochs} and {updates_per_epoch}")
    if warmup_epochs < 0 or decay_epochs <= 0:
        raise WrongValue(f"warmup_epochs is at least 0, decay_epochs above 0, not {warmup_epochs} and {decay_epochs}")
    if list(milestones) != sorted(milestones):
        raise WrongValue(f"decay_milestones must ascend, not {list(milestones)}")
    if not all(math.isfinite(rate) and rate >= 0 for rate in (lr, *rates)):
        raise WrongValue(f"lr, warmup_lr and min_lr are finite and not negative, unlike {(lr, *rates)}")
