"""The error that rounding explains in one step of a training, measured on the reference. No framework.

The reference takes every step twice from the same weights, in float64 and in float32. Their difference is float32
rounding within a step, and 2**-29 of it is float64 rounding (see ``noise``). No step inherits anything from the one
before, so nothing grows, however chaotic the training is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from alignment.engine.judging.limits import BITS, LEAKS, MARGIN, SHARE
from alignment.engine.judging.noise import NOTHING, Noise, noise_of
from alignment.engine.records.run import GRADIENT, Key, Run, Step

# A tensor whose float32 error exceeds its own size is zero but for rounding, like the gradient of a bias in front of a
# BatchNorm. The terms that cancel in it are 2**24 times the remainder that float32 rounding leaves. For a single number
# chance may leave exactly 0: the step with the largest remainder counts, and a tensor that is smaller in another step
# is nothing but rounding there, too.
VANISHED = 1.0


class Limit(NamedTuple):
    """The limit of one tensor.

    ``scale``: the scale of the error if the tensor itself is nothing but rounding, else 0. ``undecided``: why it cannot
    be judged, or empty.
    """

    floor: float
    allowed: float
    scale: float = 0.0
    undecided: str = ""


Spread = Mapping[tuple[int, Key], Noise]
"""The reference's own error in float32, by step and tensor."""


def measure_spread(exact: Run, rounded: Iterable[Step]) -> dict[tuple[int, Key], Noise]:
    """Measure the float32 errors of each step.

    ``rounded`` are the same steps in float32. What is not finite there, or missing, gets no allowance.
    """
    spread = {}
    for number, (other, step) in enumerate(zip(rounded, exact.steps)):
        for key in step.arrays.keys() & other.arrays.keys():
            found = noise_of(step.arrays[key], other.arrays[key])
            if np.isfinite(found.error):
                spread[number, key] = found
    return spread


@dataclass
class StepLimits:
    """The limits of a training whose port ran in ``dtype``.

    ``inexact``: the share of its own steps by which the port's optimizer may be off. ``leaks``: the change that
    constants kept in float32 by Paddle's kernels cause in the reference's steps, where that was measured.
    """

    spread: Spread
    dtype: str
    inexact: float = 0.0
    leaks: Spread = field(default_factory=dict)
    _worst: dict[tuple[int, str], float] = field(init=False, repr=False)
    _left: dict[Key, float] = field(init=False, repr=False)

    def __post_init__(self):
        # float32 runs separate by chance (a ReLU flips here or there): the worst tensor of each kind counts
        self._worst, self._left = {}, {}
        for (_, key), noise in self.spread.items():
            if noise.relative > VANISHED:
                self._left[key] = max(noise.error, self._left.get(key, 0.0))
        for (number, key), noise in self.spread.items():
            if not self._vanishes(key, noise):
                self._worst[number, key[0]] = max(noise.relative, self._worst.get((number, key[0]), 0.0))

    def of(self, number: int, key: Key, step: float = 0.0) -> Limit:
        """Return the limit of a tensor at a step, which changes it by the share ``step`` of its own size."""
        unit = 2.0 ** -BITS[self.dtype]
        noise = self.spread.get((number, key), NOTHING)
        leak, least = self.leaks.get((number, key), NOTHING).error, self.inexact * step
        if self._vanishes(key, noise):
            scale = self._left[key] * 2.0 ** BITS["float32"]
            return Limit(unit, max(MARGIN[self.dtype] * unit, least) + LEAKS * leak / scale, scale)
        if self.dtype == "float64":
            floor = max(unit, noise.relative * 2.0 ** (BITS["float32"] - BITS["float64"]))
        else:
            floor = max(unit, self._worst.get((number, key[0]), 0.0))
        allowed = max(MARGIN[self.dtype] * floor, least) + (LEAKS * leak / noise.scale if leak and noise.scale else 0.0)
        if allowed > SHARE:
            return Limit(floor, SHARE, undecided=f"rounding in {self.dtype} may reach {allowed:.0e} of its size")
        return Limit(floor, allowed)

    def vanished(self) -> set[str]:
        """Return the parameters whose gradient is zero but for rounding at any step."""
        return {key[1] for key in self._left if key[0] == GRADIENT}

    def _vanishes(self, key: Key, noise: Noise) -> bool:
        return key in self._left and noise.scale < self._left[key]
