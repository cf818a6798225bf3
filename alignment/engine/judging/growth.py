"""How far rounding alone separates two trainings after some steps, measured on the reference. No framework.

The reference trains twice in float64, the second time with its gradients, weights and statistics rounded to float32 at
each step. What separates the two runs is what disturbances of 2**-24 grow into, the growth of the training itself
included; 2**-29 of it is what rounding in float64 (2**-53) does. A whole run in float32 would not do: ReLUs flip in it,
and then it separates far faster than float64 does. It serves for the first step, at which nothing has grown yet.

This is proportional while the disturbed run stays close to the other. Where it does not, the training is chaotic: from
there on (``horizon``) weights and losses of two correct trainings need not be the same, and only the parts of the
training that are judged on their own inputs (schedule, clip, optimizer, average) can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.judging.noise import BITS, MARGIN
from alignment.engine.records.layout import laid_out
from alignment.engine.records.run import AVERAGE, BUFFER, GRADIENT, OUTPUT, SECOND, WHOLE, Key, Run, Step

# Constants that Paddle's backward kernels keep in float32 put errors up to this into gradients (2e-8 was measured);
# ``engine.backward`` takes the same limit.
CONSTANTS = 2.0**-20

# Where the disturbed run's output is off by more than about a percent, what grows is no longer proportional.
CLOSE = 2.0**-7

# Two disturbances of one size, of other elements, grow into separations that differ: the port's was at most 2.6 times
# what the reference's measures (13 trainings, of a small network and of dla46x_c, SGD and AdamW, learning rates from
# 0.001 to 1). Twice that, rounded up to a power of two.
GROWTH = 2.0**3


Spread = Mapping[tuple[int, Key], float]
"""Relative distance, by step and key, between the reference and its rounded run."""


def measure_spread(exact: Run, rounded: Iterable[Step]) -> dict[tuple[int, Key], float]:
    """How far rounding to float32 separates the reference's run from itself,; by step and tensor."""
    spread = {}
    for number, (other, step) in enumerate(zip(rounded, exact.steps)):
        for key in step.arrays:
            found = compare(step.arrays[key], other.arrays[key]) if key in other.arrays else None
            spread[number, key] = found.relative if found and np.isfinite(found.relative) else 0.0
    return spread


def larger(spread: Spread, other: Spread) -> dict[tuple[int, Key], float]:
    """The larger of two spreads wherever both were measured."""
    return {key: max(value, other.get(key, 0.0)) for key, value in spread.items()}


@dataclass
class Judge:
    """What error is allowed where. ``leak`` is the port's own error in the gradients of the first step.

    It is what rounding and constants in float32 do, and stays below ``CONSTANTS``; it disturbs every step, and grows
    as the disturbances of 2**-24 do from which ``spread`` was measured.
    """

    spread: Spread
    dtype: str
    leak: float = 0.0
    noisy: set[str] = field(default_factory=set)
    horizon: int = field(init=False)
    """The first step that is not judged."""
    _grown: dict[tuple[int, Key], float] = field(init=False, repr=False)
    _worst: dict[tuple[int, str], float] = field(init=False, repr=False)

    def __post_init__(self):
        # the largest spread up to each step: one number alone, as a loss, may agree by chance at a step
        self._grown, self._worst = {}, {}
        for number, key in sorted(self.spread, key=lambda found: found[0]):
            last = self._grown.get((number - 1, key), 0.0)
            grown = self._grown[number, key] = max(self.spread[number, key], last)
            kind = number, key[0]
            self._worst[kind] = max(grown, self._worst.get(kind, 0.0))
        output = (OUTPUT, WHOLE[OUTPUT], "")
        chaotic = [number for number, key in self.spread if key == output and self.spread[number, key] > CLOSE]
        # the first step starts from the same weights, and is judged in any case
        self.horizon = max(2, min(chaotic, default=1 + max((number for number, _ in self.spread), default=0)))

    def floor(self, number: int, key: Key) -> float:
        """The relative error that rounding alone explains; at least the unit roundoff."""
        unit = 2.0 ** -BITS[self.dtype]
        if self.dtype == "float64":
            return max(self._grown.get((number, key), 0.0) * 2.0 ** (BITS["float32"] - BITS["float64"]), unit)
        # float32 runs separate by chance (a ReLU flips here or there), so that the kind's worst tensor counts
        return max(unit, self._worst.get((number, key[0]), 0.0))

    def allowed(self, number: int, key: Key) -> float:
        """The largest relative error that is still taken for rounding."""
        limit = MARGIN[self.dtype] * self.floor(number, key)
        if self.dtype == "float32":
            return limit
        worst = self._worst.get((number, key[0]), 0.0)
        if self.noisy and key[0] in (BUFFER, AVERAGE):
            return max(limit, MARGIN["float32"] * worst)
        grown = GROWTH * self.leak * 2.0 ** BITS["float32"] * worst
        return max(limit, grown, CONSTANTS if key[0] == GRADIENT and number == 1 else 0.0)


def first_leak(reference: Run, port: Run) -> float:
    """The largest error of the first step's gradients, where it is one that constants in float32 explain."""
    errors = [
        compare(array, laid_out(other, array.shape)).relative
        for name, array in reference.steps[1].of(GRADIENT).items()
        if (other := port.steps[1].get(GRADIENT, name)) is not None
    ]
    return max((error for error in errors if error <= CONSTANTS), default=0.0)


def noisy_parameters(reference: Run, judge: Judge) -> set[str]:
    """Parameters whose gradient is rounding and nothing else, and that an adaptive optimizer moves all the same.

    A bias before a BatchNorm has the gradient zero; Adam divides what rounding leaves of it by its own size and so
    takes whole steps in a direction that means nothing.
    """
    found = set()
    for number, step in enumerate(reference.steps):
        for key in step.arrays:
            if key[0] == GRADIENT and judge.allowed(number, key) >= 1 and SECOND in step.roles(key[1]):
                found.add(key[1])
    return found
