"""Store a second run by its differences from the first. No framework."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.limits import FORWARD_LIMIT
from alignment.engine.records.layout import Layout, layouts
from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import Tape

SAMPLE = 64
"""The number of elements that are tested first: in a wrong layout nearly every element differs."""


@dataclass(frozen=True, eq=False)
class Echo(Ref):
    """An array that equals the first run's array ``of`` within rounding; ``found`` is their measured difference."""

    of: Ref
    found: Difference


class EchoStore(Store):
    """Stores arrays; for an array that repeats one of the ``first`` run, it stores only the difference."""

    def __init__(self, first: Store, budget: Budget | None = None):
        super().__init__(budget)
        self._first = first

    def put(self, array: np.ndarray, like: Ref | None = None) -> Ref:
        """Store ``array``, which may repeat the first run's ``like``."""
        if like is None or like.shape != array.shape or array.dtype.kind != np.dtype(like.dtype).kind:
            return super().put(array)
        found = compare(self._first.get(like), array)
        if not found.relative <= FORWARD_LIMIT:
            return super().put(array)
        self.refs.append(Echo(len(self.refs), array.shape, array.dtype.str, like, found))
        return self.refs[-1]

    def get(self, ref: Ref) -> np.ndarray:
        """Return the array; for an echo, the first run's."""
        return self._first.get(ref.of) if isinstance(ref, Echo) else super().get(ref)

    def copy(self, ref: Ref) -> np.ndarray:
        """Return a copy of the array that the caller owns."""
        return self._first.copy(ref.of) if isinstance(ref, Echo) else super().copy(ref)


def difference(reference: Tape, expected: Ref, port: Tape, actual: Ref, limit: float | None = None) -> Difference:
    """Measure the difference of two tensors of two runs; with a ``limit``, the port may use another layout.

    Without a ``limit`` the shapes must be equal.
    """
    if isinstance(actual, Echo) and actual.of is expected:
        return actual.found
    ours, theirs = reference.get(expected), port.get(actual)
    if limit is None or ours.shape == theirs.shape:
        return compare(ours, theirs)
    return in_layout(ours, theirs, limit)[1]


def in_layout(expected: np.ndarray, actual: np.ndarray, limit: float) -> tuple[Layout | None, Difference]:
    """Find the layout in which ``actual`` equals ``expected``, and measure their difference in it.

    If no layout is within ``limit``, return the plainest one that the shapes allow, or ``None``.
    """
    first: Layout | None = None
    for layout in layouts(expected.shape, actual.shape):
        first = first or layout
        if _fits(layout.apply(expected), actual, limit):
            found = compare(expected, layout.back(actual))
            if found.relative <= limit:
                return layout, found
    return first, compare(expected, first.back(actual) if first else actual)


def _fits(expected: np.ndarray, actual: np.ndarray, limit: float) -> bool:
    """Return whether a few elements, spread over the array, agree."""
    if expected.size <= SAMPLE or expected.dtype.kind not in "fc":
        return True
    # errors are relative to the largest magnitude of the whole tensor
    spots = np.linspace(0, expected.size - 1, SAMPLE).astype(np.int64)
    spots = np.unravel_index(spots, expected.shape)
    a, b = expected[spots], actual[spots]
    with np.errstate(invalid="ignore"):
        return not bool(np.any(np.abs(a - b) > limit * max(float(np.nanmax(np.abs(expected))), 1e-300)))


def regrouped(expected: np.ndarray, actual: np.ndarray, limit: float) -> bool:
    """Return whether both hold the same elements, in any order."""
    if expected.size != actual.size or expected.dtype.kind not in "fiub" or actual.dtype.kind not in "fiub":
        return False
    return compare(np.sort(expected, axis=None), np.sort(actual, axis=None)).relative <= limit
