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
    if not momentum:
        return state_cause(before, expected, actual, momentum)
    before, expected, actual = (array.reshape(-1).astype(np.float64) for array in (before, expected, actual))
    batch = (expected - (1 - momentum) * before) / momentum
    # the batch's statistic comes out of a difference, whose rounding the small momentum enlarges
    size = max(float(np.abs(array).max()) for array in (before, expected, actual))
    found = solve([before, batch], actual, 2.0 ** -BITS[dtype] * size / momentum)
    return _words(*found, momentum) if found else state_cause(before, expected, actual, momentum)


def _words(keep: Number, take: Number, momentum: float) -> str:
    kept, taken = Number(1 - momentum), Number(momentum)
    total = Number(keep.value + take.value, keep.bound + take.bound)
    if total.same(Number(1.0)) and not take.same(taken):
        swapped = ", swapped for its complement" if take.same(kept) else ""
        return f"momentum {take.value:.6g} instead of {momentum:.6g} (of the new value){swapped}"
    if keep.same(kept) and not take.same(taken):
        return _scaled(take, momentum)
    return f"{keep} of the old value and {take} of the new one, instead of {kept.value:.6g} and {momentum:.6g}"


def _scaled(take: Number, momentum: float) -> str:
    ratio, bound = take.value / momentum, take.bound / momentum
    if 0 < ratio < 1:
        count = 1 / (1 - ratio)
        bound *= count**2
        if bound <= WHOLE and abs(count - round(count)) <= max(bound, 1e-3):
            return f"the biased batch variance is used: (n - 1) / n of the reference's, n = {round(count)}"
        if bound > WHOLE:
            return f"the biased batch variance is used: (n - 1) / n of the reference's, n about {count:.3g}"
    return f"the batch's statistic is scaled by {ratio:.6g}"
