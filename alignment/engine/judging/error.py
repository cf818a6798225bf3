"""Measure the difference of two arrays over every element. No framework, no verdict.

A relative error is over the largest magnitude of the reference tensor. Rounding in a sum is proportional to its terms,
so an element that cancels to almost zero has the error of its neighbours; dividing by the element itself would report a
fault.

Integers and booleans are exact: nothing is rounded, so any difference is a large error. Complex numbers are compared by
their distance in the plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIECE = 2**16
"""The number of elements compared at a time: half a megabyte."""
EXACT_KINDS = "biu"
"""Kinds of numpy dtypes without rounding: booleans and integers."""
WHOLE = 1.0
"""The least relative error of integers or booleans that differ: as large as the tensor, so above every limit."""


@dataclass(frozen=True)
class Difference:
    """The difference of two tensors.

    ``max_abs`` is the largest absolute difference, ``relative`` the same over the largest magnitude of the reference (0
    where both are all zero), ``worst`` the index at which it occurs, ``count`` the number of elements, ``scale`` that
    largest magnitude. NaN and infinite elements must be the same on both sides; otherwise ``max_abs`` is infinite.
    ``mismatch`` is the reason why arrays could not be compared at all (shape); then both errors are infinite.
    """

    max_abs: float
    relative: float
    worst: tuple[int, ...]
    count: int
    mismatch: str = ""
    scale: float = 0.0


def compare(reference: np.ndarray, candidate: np.ndarray) -> Difference:
    """Measure ``candidate`` against ``reference``: real numbers in float64, complex ones in complex128.

    Integers and booleans on both sides are compared exactly, whatever their width; where any differs, the relative
    error is at least ``WHOLE``.
    """
    if reference.shape != candidate.shape:
        mismatch = f"shape {list(candidate.shape)} instead of {list(reference.shape)}"
        return Difference(np.inf, np.inf, (), 0, mismatch)
    if reference.size == 0:
        return Difference(0.0, 0.0, (), 0)
    a, b = reference.reshape(-1), candidate.reshape(-1)
    kinds = {a.dtype.kind, b.dtype.kind}
    exact = kinds <= {*EXACT_KINDS}
    if exact:
        largest, position, scale = _measured_exactly(a, b)
    else:
        largest, position, scale = (np.nan, 0, np.nan) if kinds & {*"bc"} else _measured(a, b)
        if not (np.isfinite(largest) and np.isfinite(scale)):
            largest, position, scale = _measured_with_non_finite(a, b)
    relative = largest / scale if scale else (np.inf if largest else 0.0)
    relative = max(relative, WHOLE) if exact and largest else relative
    worst = tuple(int(i) for i in np.unravel_index(position, reference.shape))
    return Difference(largest, relative, worst, reference.size, scale=scale)


def _measured(a: np.ndarray, b: np.ndarray) -> tuple[float, int, float]:
    """Return the largest difference, its position, and the largest magnitude of ``a``; NaN and infinity propagate.

    The arrays are processed in pieces small enough to stay in the processor's cache through all passes.
    """
    buffer = np.empty(min(PIECE, a.size))
    largest, position, scale = -1.0, 0, 0.0
    for start in range(0, a.size, PIECE):
        x, y = a[start : start + PIECE], b[start : start + PIECE]
        error = buffer[: x.size]
        with np.errstate(invalid="ignore"):
            np.subtract(x, y, out=error, dtype=np.float64, casting="unsafe")
        np.abs(error, out=error)
        at = int(error.argmax())  # argmax returns the first NaN, if any
        if not error[at] <= largest:
            largest, position = float(error[at]), start + at
        scale = max(float(x.max()), -float(x.min()), scale)
        if not (np.isfinite(largest) and np.isfinite(scale)):
            return np.nan, position, scale
    return largest, position, scale


def _measured_exactly(a: np.ndarray, b: np.ndarray) -> tuple[float, int, float]:
    """``_measured`` for integers and booleans; neighbours beyond 2**53, equal in float64, differ by one."""
    error = np.where(a == b, 0.0, np.maximum(np.abs(a.astype(np.float64) - b.astype(np.float64)), 1.0))
    position = int(error.argmax())
    return float(error[position]), position, float(np.abs(a.astype(np.float64)).max())


def _measured_with_non_finite(a: np.ndarray, b: np.ndarray) -> tuple[float, int, float]:
    """``_measured`` for arrays with NaN, infinite or complex elements; the former must match on both sides."""
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    a, b = a.astype(wide), b.astype(wide)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    error = np.where(same, 0.0, np.where(np.isfinite(a) & np.isfinite(b), error, np.inf))
    finite = np.abs(a[np.isfinite(a)])
    position = int(error.argmax())
    return float(error[position]), position, float(finite.max()) if finite.size else 1.0
