"""A differing array with the known tensors at its place, and tests of hypotheses on it. numpy only.

A hypothesis is tested on a few elements first: nearly all hypotheses are wrong, and the arrays may have millions of
elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from alignment.engine.judging.error import compare

SAMPLE = 256
"""The number of elements tested first: enough to reject what is wrong in more than 2 of 100 elements."""


@dataclass(frozen=True)
class Case:
    """One array that differs. ``limit`` is the relative error that rounding explains.

    ``known`` are tensors at that place by name: the layer's inputs and the outputs of the layers inside it.
    ``parameters`` are the reference layer's own, by name; ``extra`` those that only its twin has.
    """

    expected: np.ndarray
    actual: np.ndarray
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    limit: float = 2.0**-41  # of one layer alone in float64, as FORWARD_LIMIT in noise.py
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def same_shape(self) -> bool:
        """Whether the port has the same number of elements along each axis."""
        return self.expected.shape == self.actual.shape

    def is_actual(self, candidate: np.ndarray) -> bool:
        """Return whether ``candidate`` is the port's array."""
        return self.same(self.actual, candidate)

    def is_expected(self, candidate: np.ndarray) -> bool:
        """Return whether ``candidate`` is the reference's array."""
        return self.same(self.expected, candidate)

    def same(self, array: np.ndarray, candidate: np.ndarray) -> bool:
        """Return whether ``candidate`` equals ``array`` within rounding, in every element."""
        if array.shape != candidate.shape:
            return False
        if array.size > SAMPLE:
            places = self._places(array.shape)
            if not self._near(array[places], candidate[places]):
                return False
        return compare(array, candidate).relative <= self.limit

    def makes_actual(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Return whether the elementwise ``function`` of ``arrays`` is the port's array."""
        return self.makes(self.actual, function, *arrays)

    def makes_expected(self, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Return whether the elementwise ``function`` of ``arrays`` is the reference's array."""
        return self.makes(self.expected, function, *arrays)

    def makes(self, array: np.ndarray, function: Callable[..., np.ndarray], *arrays: np.ndarray) -> bool:
        """Return whether the elementwise ``function`` of ``arrays``, broadcast if needed, is ``array``."""
        if array.size > SAMPLE:
            places = self._places(array.shape)
            few = [np.broadcast_to(one, array.shape)[places] for one in arrays]
            if not self._near(array[places], function(*few)):
                return False
        return self.same(array, np.broadcast_to(function(*arrays), array.shape))

    def fitting(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the known tensors that have the shape of both sides."""
        if self.same_shape:
            yield from ((name, array) for name, array in self.known.items() if array.shape == self.expected.shape)

    def multiple(self, array: np.ndarray) -> float:
        """Return how many times ``array`` is added to the reference's to give the port's; NaN if undefined.

        It is undefined where ``array`` is constant, since a constant may be added just as well.
        """
        if not self.same_shape or array.shape != self.expected.shape or not varied(array):
            return np.nan
        if array.size > SAMPLE:
            places = self._places(array.shape)
            few, added = array[places], self.actual[places] - self.expected[places]
            if not self._near(added, factor(added, few) * few):
                return np.nan
        number = factor(self.actual - self.expected, array)
        return number if self.makes_actual(lambda e, a: e + number * a, self.expected, array) else np.nan

    @cached_property
    def may_be_rearranged(self) -> bool:
        """Return whether both sides may have the same elements in another order: their sums and squares are equal."""
        if self.expected.size != self.actual.size or not varied(self.expected):
            return False
        most = self.expected.size * self.limit * self._scale
        e, a = self.expected, self.actual
        return (
            abs(e.sum() - a.sum()) <= most
            and abs(np.vdot(e, e).item() - np.vdot(a, a).item()) <= 2 * most * self._scale
        )

    def of_real_numbers(self) -> Case:
        """Return the case in float64, in which sums of float16 do not overflow, without known tensors of other kinds.

        Tables of indices among the parameters stay unchanged.
        """
        names = ("known", "extra")
        others = {name: {n: _wide(a) for n, a in getattr(self, name).items() if is_float(a)} for name in names}
        others["parameters"] = {n: _wide(a) if is_float(a) else a for n, a in self.parameters.items()}
        return replace(self, expected=_wide(self.expected), actual=_wide(self.actual), **others)

    @cached_property
    def _scale(self) -> float:
        """The largest magnitude on either side, by which the first test is more lenient than the full comparison."""
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
        # elements that are not finite are left to the full comparison
        return not (np.abs(few - candidate) > self.limit * self._scale).any()


def is_float(array: np.ndarray) -> bool:
    """Return whether ``array`` holds floating-point numbers."""
    return array.dtype.kind == "f"


def broadcasts(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Return whether ``array`` broadcasts along the last axes of ``shape`` without enlarging it."""
    return array.ndim <= len(shape) and all(n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1]))


def applicable(parameters: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield parameters that broadcast to an array of ``shape``: along its last axes, or along the channels."""
    for name, array in parameters.items():
        if not array.size or not is_float(array):
            continue
        if broadcasts(array, shape):
            yield name, array
        if array.ndim == 1 and len(shape) > 2 and array.size == shape[1]:
            yield name, array.reshape(-1, *[1] * (len(shape) - 2))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64, copy=False)


def factor(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the number by which ``expected`` comes nearest to ``actual``; NaN if any number would fit.

    That is the case if ``expected`` is constant: a scaled, a shifted and another constant look the same.
    """
    if not varied(expected):
        return np.nan
    return float(np.vdot(expected, actual) / np.vdot(expected, expected))


def varied(array: np.ndarray) -> bool:
    """Return whether there are at least two values; the first few are enough unless they are equal."""
    if not array.size:
        return False
    first = array[(0,) * array.ndim]
    return bool((array[(0,) * (array.ndim - 1)] != first).any() or (array != first).any())


Hypothesis = Callable[[Case], str]


def explain(case: Case, hypotheses: Sequence[Hypothesis], tried_first: list[Hypothesis] | None = None) -> str:
    """Return the description of the first hypothesis that holds, else ``""``, also for empty arrays.

    ``tried_first`` holds the hypotheses that explained earlier cases of the same kind, the latest first, and is
    updated: a mistake made in fifty layers is explained quickly in the last of them.
    """
    if not (case.expected.size and case.actual.size):
        return ""
    # convert a single number to an array of one element
    case = replace(case, expected=np.atleast_1d(case.expected), actual=np.atleast_1d(case.actual))
    case = case.of_real_numbers() if is_float(case.expected) and is_float(case.actual) else case
    known = tried_first or []
    with np.errstate(all="ignore"):
        for hypothesis in [*known, *(other for other in hypotheses if other not in known)]:
            if words := hypothesis(case):
                if tried_first is not None:
                    tried_first[:] = [hypothesis, *(other for other in tried_first if other is not hypothesis)]
                return words
    return ""
