"""One array that differs, what is known at its place, and how a guess is tried on it. numpy only.

A guess is tried on a few elements first: nearly all guesses are wrong, and the arrays may have millions of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
        """The known tensors of the shape of both."""
        if self.same_shape:
            yield from ((name, array) for name, array in self.known.items() if array.shape == self.expected.shape)

    def multiple(self, array: np.ndarray) -> float:
        """The number of times that ``array`` is added to make the port's of the reference's; NaN where none is.

        None is where ``array`` is one value throughout: then what is added may as well be a constant.
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
        """Whether both sides may have the same elements in another order: then their sums and squares are the same."""
        if self.expected.size != self.actual.size or not varied(self.expected):
            return False
        most = self.expected.size * self.limit * self._scale
        e, a = self.expected, self.actual
        return (
            abs(e.sum() - a.sum()) <= most
            and abs(np.vdot(e, e).item() - np.vdot(a, a).item()) <= 2 * most * self._scale
        )

    def of_real_numbers(self) -> Case:
        """The same in float64, in which sums of float16 do not overflow, and without what is known of other kinds.

        Tables of indices among the parameters stay as they are.
        """
        names = ("known", "extra")
        others = {name: {n: _wide(a) for n, a in getattr(self, name).items() if is_float(a)} for name in names}
        others["parameters"] = {n: _wide(a) if is_float(a) else a for n, a in self.parameters.items()}
        return replace(self, expected=_wide(self.expected), actual=_wide(self.actual), **others)

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
        # what is not finite on either side is left to the comparison of all elements
        return not (np.abs(few - candidate) > self.limit * self._scale).any()


def is_float(array: np.ndarray) -> bool:
    """Whether ``array`` holds real numbers that are rounded."""
    return array.dtype.kind == "f"


def broadcasts(array: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether ``array`` can be applied along the last axes of one of ``shape``, which it does not enlarge."""
    return array.ndim <= len(shape) and all(n in (1, m) for n, m in zip(array.shape[::-1], shape[::-1]))


def applicable(parameters: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Parameters that can be applied to an array of ``shape``: along its last axes, or along the channels."""
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
    """The number by which ``expected`` comes nearest to ``actual``; NaN where any number would do as well.

    That is where ``expected`` is one value throughout: a constant that is scaled, shifted or another looks the same.
    """
    if not varied(expected):
        return np.nan
    return float(np.vdot(expected, actual) / np.vdot(expected, expected))


def varied(array: np.ndarray) -> bool:
    """Whether there are at least two values; the first few show it, unless they are alike."""
    if not array.size:
        return False
    first = array[(0,) * array.ndim]
    return bool((array[(0,) * (array.ndim - 1)] != first).any() or (array != first).any())


Hypothesis = Callable[[Case], str]


def explain(case: Case, hypotheses: Sequence[Hypothesis], tried_first: list[Hypothesis] | None = None) -> str:
    """The words of the first hypothesis that holds, else ``""``; of nothing at all there is nothing to say.

    ``tried_first`` holds what explained earlier cases of the same kind, the latest first, and takes up what explains
    this one: where one mistake was made in fifty layers, the fiftieth is explained as fast as it can be.
    """
    if not (case.expected.size and case.actual.size):
        return ""
    # a single number as an array of one element
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
