"""One array that differs, what is known at its place, and how a guess is tried on it. numpy only.

A guess is tried on a few elements first: nearly all guesses are wrong, and the arrays may have millions of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from alignment.engine.judging.error import compare

SAMPLE = 256
"""Elements on which a guess is tried first: enough to refuse what is wrong in more than 2 of 100 elements."""


@dataclass(frozen=True)
class Case:
    """One array that differs. ``limit`` is the relative error that rounding explains.

    ``known`` are tensors at that place by name: what the layer was given, what the layers inside it returned.
    ``parameters`` are the layer's own in the reference, by name; ``extra`` those that its twin has and it has not.
    """

    expected: np.ndarray
    actual: np.ndarray
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    limit: float = 2.0**-41  # of one layer alone in float64, as FORWARD_LIMIT in noise.py
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def same_shape(self) -> bool:
        """Whether the port has as many elements along each axis."""
        return self.expected.shape == self.actual.shape

    def is_actual(self, candidate: np.ndarray) -> bool:
        """Whether ``candidate`` explains what the port has."""
        return self.same(self.actual, candidate)

    def is_expected(self, candidate: np.ndarray) -> bool:
        """Whether ``candidate`` is what the reference has."""
        return self.same(self.expected, candidate)

    def same(self, array: np.ndarray, candidate: np.ndarray) -> bool:
        """Whether ``candidate`` is ``array`` to rounding, in every element."""
        if array.shape != candidate.shape:
            return False
        if array.size > SAMPLE:
            places = self._places(array.shape)
            if not self._near(array[places], candidate[places]):
                return False
        return compare(array, candidate).relative <= self.limit

    def makes_actual(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Whether ``function``, element by element, makes of ``arrays`` what the port has."""
        return self.makes(self.actual, function, *arrays)

    def makes_expected(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Whether ``function``, element by element, makes of ``arrays`` what the reference has."""
        return self.makes(self.expected, function, *arrays)

    def makes(self, array: np.ndarray, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Whether ``function``, element by element, makes ``array`` of ``arrays``, which may have to be broadcast."""
        if array.size > SAMPLE:
            places = self._places(array.shape)
            few = [np.broadcast_to(one, array.shape)[places] for one in arrays]
            if not self._near(array[places], function(*few)):
                return False
        return self.same(array, np.broadcast_to(function(*arrays), array.shape))

    def fitting(self) -> Iterator[tuple[str, np.ndarray]]:
        """The known tensors of real numbers that have the shape of both."""
        if self.same_shape:
            shape = self.expected.shape
            yield from ((n, array) for n, array in self.known.items() if array.shape == shape and is_real(array))

    def in_float64(self) -> Case:
        """The same with every array of real numbers in float64, in which sums of float16 do not overflow."""
        return replace(
            self,
            expected=_wide(self.expected),
            actual=_wide(self.actual),
            known={name: _wide(array) for name, array in self.known.items()},
        )

    @cached_property
    def _scale(self) -> float:
        """The largest magnitude on either side, by which the first trial is more lenient than the comparison."""
        return max(float(np.abs(array).max(initial=0.0)) for array in (self.expected, self.actual))

    @cached_property
    def _drawn(self) -> dict[tuple[int, ...], tuple[np.ndarray, ...]]:
        return {}

    def _places(self, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        if shape not in self._drawn:
            flat = np.random.RandomState(0).randint(0, np.prod(shape, dtype=int), SAMPLE)
            self._drawn[shape] = np.unravel_index(flat, shape)
        return self._drawn[shape]

    def _near(self, few: np.ndarray, candidate: np.ndarray) -> bool:
        finite = np.isfinite(few) & np.isfinite(candidate)
        return bool((np.abs(few - candidate)[finite] <= self.limit * self._scale).all())


def is_real(array: np.ndarray) -> bool:
    """Whether ``array`` holds real numbers that can be added and multiplied."""
    return array.dtype.kind in "fiu"


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize < 8 else array


def factor(actual: np.ndarray, expected: np.ndarray) -> float:
    """The number by which ``expected`` comes nearest to ``actual``; NaN where any number would do as well.

    That is where ``expected`` is one value throughout: a constant that is scaled, shifted or another looks the same.
    """
    if not varied(expected):
        return np.nan
    square = float(np.vdot(expected, expected))
    return float(np.vdot(expected, actual)) / square if square else np.nan


def varied(array: np.ndarray) -> bool:
    """Whether there are at least two values."""
    return array.size > 1 and bool((array != array.reshape(-1)[0]).any())


def explain(case: Case, hypotheses: tuple[Callable[[Case], str], ...]) -> str:
    """The words of the first hypothesis that holds, else ``""``."""
    wide = case.in_float64()
    with np.errstate(all="ignore"):
        return next((words for hypothesis in hypotheses if (words := hypothesis(wide))), "")
