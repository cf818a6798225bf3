"""How BatchNorm's running statistics are updated otherwise than the reference's, from one update. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.engine.explaining.causes import state_cause
from alignment.engine.explaining.solving import Number, solve
from alignment.engine.judging.noise import BITS

WHOLE = 0.4
"""How far a number of values may be from a whole number that it is taken for."""


def statistic_cause(
    before: np.ndarray, expected: np.ndarray, actual: np.ndarray, momentum: float | None, dtype: str
) -> str:
    """In words; ``momentum`` in torch's convention, the share of the new value. Empty where nothing explains it.

    ``actual = keep * before + take * batch``, and the batch's own statistic is what the reference took of it.
    """
    if np.array_equal(before, actual):
        return "never updated"
    if not momentum or not before.any():  # what is kept of zeros is not known
        return state_cause(before, expected, actual, momentum)
    before, expected, actual = (array.reshape(-1).astype(np.float64) for array in (before, expected, actual))
    batch = (expected - (1 - momentum) * before) / momentum
    # the batch's statistic comes out of a difference, whose rounding the small momentum enlarges
    size = max(float(np.abs(array).max()) for array in (before, expected, actual))
    found = solve([before, batch], actual, 2.0 ** -BITS[dtype] * size / momentum)
    return _words(*found, momentum) if found else state_cause(before, expected, actual, momentum)


def _words(keep: Number, take: Number, momentum: float) -> str:
    used = Number(1 - keep.value, keep.bound)
    words = [] if used.same(Number(momentum)) else [_momentum(used.value, momentum)]
    if not take.same(used):
        words.append(_scaled(take, used))
    return ", and ".join(words)


def _momentum(used: float, momentum: float) -> str:
    # the share that is kept, taken for the share of the new value
    swapped = ", swapped for its complement" if abs(used - (1 - momentum)) <= 1e-6 else ""
    return f"momentum {used:.6g} instead of {momentum:.6g} (of the new value){swapped}"


def _scaled(take: Number, used: Number) -> str:
    ratio = take.value / used.value if used.value else 0.0
    if 0 < ratio < 1:
        count = 1 / (1 - ratio)
        bound = count**2 * (take.bound + ratio * used.bound) / used.value
        if bound <= WHOLE and abs(count - round(count)) <= max(bound, 1e-3):
            return f"the biased batch variance is used: (n - 1) / n of the reference's, n = {round(count)}"
        if bound > WHOLE:
            return f"the biased batch variance is used: (n - 1) / n of the reference's, n about {count:.3g}"
    return f"the batch's statistic is scaled by {ratio:.6g}"
