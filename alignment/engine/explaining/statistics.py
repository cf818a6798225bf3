"""Explain how BatchNorm's running statistics are updated differently, from one update. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.engine.explaining.solving import Number, solve
from alignment.engine.judging.error import compare
from alignment.engine.judging.limits import BITS

# The error of a solved momentum: the reference's buffers are float64 here, and the solution divides differences that
# cancel by up to six digits.
SOLVED = 1e-6
# The error of the ratio of two batch statistics: the rest of float64 if a sum changes by a share of 0.1.
SOLVED_RATIO = 1e-8

WHOLE = 0.4
"""The largest distance of a number of values from the whole number that it is taken for."""

BIASED = "the biased batch variance is used: (n - 1) / n of the reference's, n"


def with_rounded_momentum(before: np.ndarray, expected: np.ndarray, momentum: float | None) -> np.ndarray:
    """Return the result of an update from ``before`` to ``expected`` if the kept share is a float32 number.

    Paddle's kernel takes the momentum as float32, also in float64.
    """
    if not momentum:
        return expected
    batch = _batch(before, expected, momentum)
    kept = float(np.float32(1 - momentum))
    return kept * before + (1 - kept) * batch


def _batch(before: np.ndarray, expected: np.ndarray, momentum: float) -> np.ndarray:
    """Return the batch's own statistic, of which the reference took the share ``momentum``."""
    return (expected - (1 - momentum) * before) / momentum


# --- in float64, from zeros too -------------------------------------------------------------------------------------


def state_cause(before: np.ndarray, expected: np.ndarray, actual: np.ndarray, momentum: float | None) -> str:
    """Describe a wrong update; empty if nothing explains it.

    ``momentum`` is in torch's convention, the share of the new value.
    """
    if np.array_equal(before, actual):
        return "never updated"
    if np.array_equal(before, expected):
        return "updated although the reference leaves it"
    share = _ratio(actual - before, expected - before)
    if share and momentum:
        return _momentum(share * momentum, momentum)
    return _other_statistic(before, expected, actual, momentum) if momentum else ""


def _other_statistic(before: np.ndarray, expected: np.ndarray, actual: np.ndarray, momentum: float) -> str:
    """Explain a wrong update by another batch statistic, scaled relative to the reference's by its share."""
    ours = _batch(before, expected, momentum)
    for kept in (1 - momentum, float(np.float32(1 - momentum))):
        ratio = _ratio((actual - kept * before) / (1 - kept), ours)
        count = 1 / (1 - ratio) if ratio and 0 < ratio < 1 else 0.0
        # the number of values of one channel is whole; an error of the ratio is multiplied by its square
        if count and abs(count - round(count)) <= min(SOLVED_RATIO * count**2, 0.1):
            return f"{BIASED} = {round(count)}"
    return f"the batch's statistic is scaled by {ratio:.6g}" if ratio else ""


def _ratio(a: np.ndarray, b: np.ndarray) -> float:
    """Return the number by which ``b`` becomes ``a``; 0 if there is none."""
    square = float(np.vdot(b, b))
    ratio = float(np.vdot(a, b)) / square if square else 0.0
    return ratio if compare(a, ratio * b).relative <= SOLVED else 0.0


def _momentum(used: float, momentum: float) -> str:
    # the kept share is used as the share of the new value
    swapped = ", swapped for its complement" if abs(used - (1 - momentum)) < SOLVED else ""
    return f"momentum {used:.6g} instead of {momentum:.6g} (of the new value){swapped}"


# --- in the type of a training, momentum and statistic at once ------------------------------------------------------


def statistic_cause(
    before: np.ndarray, expected: np.ndarray, actual: np.ndarray, momentum: float | None, dtype: str
) -> str:
    """Describe a wrong update as ``state_cause`` does, for an update in ``dtype``.

    ``actual = keep * before + take * batch``; the batch's own statistic follows from the reference's update.
    """
    if np.array_equal(before, actual):
        return "never updated"
    if not momentum or not before.any():  # the kept share of zeros is unknown
        return state_cause(before, expected, actual, momentum)
    before, expected, actual = (array.reshape(-1).astype(np.float64) for array in (before, expected, actual))
    # the batch's statistic is a difference, whose rounding the small momentum enlarges
    size = max(float(np.abs(array).max()) for array in (before, expected, actual))
    found = solve([before, _batch(before, expected, momentum)], actual, 2.0 ** -BITS[dtype] * size / momentum)
    if not found:
        return state_cause(before, expected, actual, momentum)
    keep, take = found
    return _words(keep, take, momentum)


def _words(keep: Number, take: Number, momentum: float) -> str:
    used = Number(1 - keep.value, keep.bound)
    words = [] if used.same(Number(momentum)) else [_momentum(used.value, momentum)]
    if not take.same(used):
        words.append(_scaled(take, used))
    return ", and ".join(words)


def _scaled(take: Number, used: Number) -> str:
    ratio = take.value / used.value if used.value else 0.0
    if 0 < ratio < 1:
        count = 1 / (1 - ratio)
        bound = count**2 * (take.bound + ratio * used.bound) / used.value
        if bound <= WHOLE and abs(count - round(count)) <= max(bound, 1e-3):
            return f"{BIASED} = {round(count)}"
        if bound > WHOLE:
            return f"{BIASED} about {count:.3g}"
    return f"the batch's statistic is scaled by {ratio:.6g}"
