"""Two arrays -> what separates them, measured over every element. No framework, no verdict.

The scale of a relative error is the largest magnitude of the reference tensor: rounding in a sum is proportional to
its terms, so an element that cancels to almost zero carries the error of its neighbours, and dividing by the element
itself would call that a fault.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """What separates two tensors.

    ``max_abs`` is the largest absolute difference, ``relative`` the same over the largest magnitude of the
    reference (0 where both are all zero), ``worst`` the index at which it occurs, ``count`` the number of elements.
    NaN and infinite elements must be the same on both sides; where they are not, ``max_abs`` is infinite.
    ``mismatch`` says why arrays could not be compared at all (shape); then both errors are infinite.
    """

    max_abs: float
    relative: float
    worst: tuple[int, ...]
    count: int
    mismatch: str = ""


def compare(reference: np.ndarray, candidate: np.ndarray) -> Difference:
    """Measure ``candidate`` against ``reference``, in float64 or wider."""
    if reference.shape != candidate.shape:
        mismatch = f"shape {list(candidate.shape)} instead of {list(reference.shape)}"
        return Difference(np.inf, np.inf, (), 0, mismatch)
    if reference.size == 0:
        return Difference(0.0, 0.0, (), 0)
    a, b = reference.astype(np.float64, copy=False), candidate.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):
        error = np.asarray(a - b)
    np.abs(error, out=error)
    position = int(error.argmax())  # of the first NaN where there is one
    if not np.isfinite(error.flat[position]):
        error = _with_non_finite(a, b, error)
        position = int(error.argmax())
    largest = float(error.flat[position])
    scale = _scale(a)
    relative = largest / scale if scale else (np.inf if largest else 0.0)
    worst = tuple(int(i) for i in np.unravel_index(position, a.shape))
    return Difference(largest, relative, worst, a.size)


def _with_non_finite(a: np.ndarray, b: np.ndarray, error: np.ndarray) -> np.ndarray:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), error, np.inf))


def _scale(a: np.ndarray) -> float:
    largest = max(float(a.max()), -float(a.min()))
    if np.isfinite(largest):
        return largest
    finite = np.abs(a[np.isfinite(a)])
    return float(finite.max()) if finite.size else 1.0
