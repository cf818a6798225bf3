"""How large an error rounding alone explains in one step of a training, measured on the reference. No framework.

The reference takes every step twice from the same weights, in float64 and in float32. What separates the two is what
rounding in float32 does within a step, and 2**-29 of it is what rounding in float64 does (see ``noise``). No step
inherits anything from the one before, so that nothing grows, however chaotic the training is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from alignment.engine.judging.noise import BITS, LEAKS, MARGIN, NOTHING, SHARE, Noise, noise_of
from alignment.engine.records.run import GRADIENT, Key, Run, Step

# A tensor that a run in float32 gets wrong by more than its own size is zero but for rounding, as the gradient of a
# bias in front of a BatchNorm is. What cancels in it is 2**24 times what rounding in float32 leaves of it. Of a single
# number chance may leave exactly 0: the step in which rounding left most tells, and a tensor that is smaller in another
# step is nothing but rounding there, too.
VANISHED = 1.0


class Limit(NamedTuple):
    """What is allowed of one tensor.

    ``scale``: what the error is measured against where the tensor itself is nothing but rounding, else 0.
    ``undecided``: why it cannot be judged, if so.
    """

    floor: float
    allowed: float
    scale: float = 0.0
    undecided: str = ""


Spread = Mapping[tuple[int, Key], Noise]
"""The reference's own error in float32, by step and tensor."""


def measure_spread(exact: Run, rounded: Iterable[Step]) -> dict[tuple[int, Key], Noise]:
    """``rounded``: the same steps in float32. What is not finite there, or missing, is granted nothing."""
    spread = {}
    for number, (other, step) in enumerate(zip(rounded, exact.steps)):
        for key in step.arrays.keys() & other.arrays.keys():
            found = noise_of(step.arrays[key], other.arrays[key])
            if np.isfinite(found.error):
                spread[number, key] = found
    return spread


@dataclass
class StepLimits:
    """What error is allowed where, in a port that ran in ``dtype``.

    ``inexact``: the share of its own steps by which the port's optimizer may be off. ``leaks``: what constants that
    Paddle's kernels keep in float32 do to the reference's steps, where that was measured.
    """

    spread: Spread
    dtype: str
    inexact: float = 0.0
    leaks: Spread = field(default_factory=dict)
    _worst: dict[tuple[int, str], float] = field(init=False, repr=False)
    _left: dict[Key, float] = field(init=False, repr=False)

    def __post_init__(self):
        # runs in float32 separate by chance (a ReLU flips here or there): the kind's worst tensor counts there
        self._worst, self._left = {}, {}
        for (_, key), noise in self.spread.items():
            if noise.relative > VANISHED:
                self._left[key] = max(noise.error, self._left.get(key, 0.0))
        for (number, key), noise in self.spread.items():
            if not self._vanishes(key, noise):
                self._worst[number, key[0]] = max(noise.relative, self._worst.get((number, key[0]), 0.0))

    def of(self, number: int, key: Key, step: float = 0.0) -> Limit:
        """The limit of a tensor at a step, which changes it by the share ``step`` of its own size."""
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
        """Parameters whose gradient is zero but for rounding, at any step."""
        return {key[1] for key in self._left if key[0] == GRADIENT}

    def _vanishes(self, key: Key, noise: Noise) -> bool:
        return key in self._left and noise.scale < self._left[key]
