"""Hypotheses on normalisation, also hand-written: axes, deviation, epsilon and its place. numpy only.

Every form is ``y = (x - centre) / s * scale + shift`` with one ``s`` for each group of elements. ``s`` follows from
``x``, ``y`` and the layer's own parameters, group by group, and epsilon from ``s`` and the group's variance. A form
counts only if it holds in every element, with one epsilon for all groups. Both sides are solved in this way; the
difference of the two forms is the cause. Of several forms those that differ least count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np

from alignment.engine.explaining.case import Case, applicable

# Epsilon is the difference of s**2 and the variance, which cancel: with 53 bits on either side it is known to some
# 2**-48 of the variance. All groups must agree on it to that precision, with a few bits for the sum over a group.
AGREED = 2.0**-44
# Two readings have the same epsilon if they differ by less than this share, which three digits show.
SHOWN = 1e-3
# Groups whose variances lie within this share of each other do not distinguish the forms of epsilon.
APART = 1e-4
TRIED = 8
"""The number of known tensors tried as the input; the layer's inputs come first."""
GROUPS = (2, 3, 4, 6, 8, 16, 32)
SCALES = ("weight", "scale", "gamma", "g", "alpha", "a_2", "w")
SHIFTS = ("bias", "beta", "shift", "b_2", "b")
RUNNING = "the running statistics"


@dataclass(frozen=True)
class Reading:
    """The form of one side's normalisation.

    ``scale`` and ``shift`` are the parameters that it applies, ``sure`` is the error of epsilon.
    """

    over: str
    centred: bool
    divides_by: str
    unbiased: bool
    scale: str
    shift: str
    epsilon: float
    sure: float

    def differences(self, other: Reading) -> list[str]:
        """Describe how ``other``, the port's form, differs."""
        words = []
        if self.over != other.over:
            words.append(f"normalises over {other.over} instead of {self.over}")
        if self.centred != other.centred:
            words.append(f"the mean is {'' if other.centred else 'not '}subtracted")
        if self.divides_by != other.divides_by:
            words.append(f"divides by {other.divides_by} instead of {self.divides_by}")
        if self.unbiased != other.unbiased:
            kinds = ("biased (n)", "unbiased (n - 1)")
            words.append(f"{kinds[other.unbiased]} deviation instead of the {kinds[self.unbiased]} one")
        for right, wrong, verb in ((self.scale, other.scale, "applied"), (self.shift, other.shift, "added")):
            if right != wrong:
                instead = f" instead of {right}" if right and wrong else ""
                words.append(f"{wrong or right} is {'' if wrong else 'not '}{verb}{instead}")
        apart = abs(self.epsilon - other.epsilon)
        if apart > max(SHOWN * max(self.epsilon, other.epsilon), self.sure + other.sure):
            words.append(f"epsilon {other.epsilon:.3g} instead of {self.epsilon:.3g}")
        return words


def normalisation(case: Case) -> str:
    """Test for another normalisation of a known tensor."""
    if not case.same_shape or case.expected.ndim < 2:
        return ""
    for _, x in islice(case.fitting(), TRIED):
        right = [*_readings(case, x, case.expected)]
        wrong = [*_readings(case, x, case.actual)] if right else []
        differences = [one.differences(other) for one, other in product(right, wrong)]
        if differences and all(differences):
            return "; ".join(min(differences, key=len))
    return ""


# --- one side -------------------------------------------------------------------------------------------------------


def _readings(case: Case, x: np.ndarray, y: np.ndarray) -> Iterator[Reading]:
    """Yield all forms in which ``y`` may be the normalised ``x``, tested on one group first."""
    scales, shifts = (
        [(name, np.broadcast_to(array, x.shape)) for name, array in _options(case.parameters, x.shape, roles, neutral)]
        for roles, neutral in ((SCALES, 1.0), (SHIFTS, 0.0))
    )
    for over, one, grouped in _groupings(x.shape):
        for (scale, w), (shift, b), centred in product(scales, shifts, (True, False)):
            tensors = x, y, w, b
            if _groups(case.limit, grouped, [tensor[one] for tensor in tensors], centred) is None:
                continue
            found = _groups(case.limit, grouped, tensors, centred)
            if found is not None:
                yield from _forms(*found, over, centred, scale, shift)
    yield from _with_running_statistics(case, x, y)


Grouped = Callable[[np.ndarray], np.ndarray]


def _groupings(shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[slice, ...], Grouped]]:
    """Yield possible groups: a description, the position of one group, and the conversion to (groups, members)."""
    rank = len(shape)
    sets = [tuple(range(first, rank)) for first in range(rank - 1, 0, -1)]
    sets += [(1,)] + [tuple(range(1, rank - 1))] * (rank > 3) + [(0, *range(2, rank))]
    for axes in dict.fromkeys(axes for axes in sets if axes):
        one = tuple(slice(None) if axis in axes else slice(1) for axis in range(rank))
        yield f"axes {list(axes)}", one, lambda array, axes=axes: _behind(array, axes)
    for number in GROUPS if rank > 2 else ():
        if number < shape[1] and shape[1] % number == 0:
            width = shape[1] // number
            one = slice(1), slice(width)
            yield f"{number} groups of channels", one, lambda array, w=width: array.reshape(-1, w * array[0, 0].size)


def _behind(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    members = int(np.prod([array.shape[axis] for axis in axes]))
    return np.moveaxis(array, axes, range(-len(axes), 0)).reshape(-1, members)


def _options(
    parameters: Mapping[str, np.ndarray], shape: tuple[int, ...], roles: tuple[str, ...], neutral: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the parameters that may be the scale or the shift, laid out along the array's axes; none is ``neutral``."""
    yield "", np.full((1,) * len(shape), neutral)
    chosen = {name: array for name, array in parameters.items() if name.rpartition(".")[2] in roles}
    for name, array in applicable(chosen, shape):
        yield name, array
        if neutral:
            yield f"1 + {name}", 1 + array


def _groups(
    limit: float, grouped: Grouped, tensors: Sequence[np.ndarray], centred: bool
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return ``s`` and the mean square of each group, and its members; ``None`` if ``y`` is no such quotient.

    ``tensors`` are ``x``, ``y``, the scale and the shift.
    """
    x, y, w, b = map(grouped, tensors)
    members = x.shape[1]
    if members < 3:  # a centred group of two has one free number, which any ``s`` explains
        return None
    spread = x - x.mean(1, keepdims=True) if centred else x
    s = _divisors(limit, spread * w, y - b, y)
    return None if s is None else (s, (spread * spread).mean(1), members)


def _divisors(limit: float, numerator: np.ndarray, quotient: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Return ``s`` of each row such that ``numerator / s`` is ``quotient`` in every element."""
    square = (numerator * numerator).sum(1)
    inverse = (numerator * quotient).sum(1) / np.where(square > 0, square, 1)
    wrong = np.abs(quotient - numerator * inverse[:, None]).max(initial=0.0)
    fits = wrong <= limit * np.abs(y).max(initial=0.0)
    return 1 / inverse[inverse > 0] if fits and (inverse > 0).all() else None


def _forms(
    s: np.ndarray, square: np.ndarray, members: int, over: str, centred: bool, scale: str, shift: str
) -> Iterator[Reading]:
    """Yield the places of epsilon for which it is one number for all groups."""
    for unbiased in (False, True) if centred and members > 1 else (False,):
        variance = square * members / (members - 1) if unbiased else square
        if variance.max() - variance.min() <= APART * variance.max():
            return
        sums = members * square
        forms = {
            "the root of variance + epsilon": (s**2, variance),
            "the root of the variance, + epsilon": (s, np.sqrt(variance)),
            "variance + epsilon, without a root": (s, variance),
            "the root of the sum of squares + epsilon": (s**2, sums),
            "the root of the sum of squares, + epsilon": (s, np.sqrt(sums)),
        }
        found = [(divides_by, *_one_for_all(whole - part, whole)) for divides_by, (whole, part) in forms.items()]
        found.append(("the larger of epsilon and the root of the sum of squares", *_least(s, np.sqrt(sums))))
        for divides_by, epsilon, sure in found:
            if sure:
                yield Reading(over, centred, divides_by, unbiased, scale, shift, epsilon, sure)


def _one_for_all(epsilons: np.ndarray, whole: np.ndarray) -> tuple[float, float]:
    """Return the epsilon of all groups and its error; an error of 0 if they disagree, or it is negative."""
    sure = AGREED * whole
    # the group with the smallest variance is the most precise
    epsilon = float(epsilons[np.argmin(sure)])
    least = float(sure.min())
    if (np.abs(epsilons - epsilon) > sure + least).any() or epsilon < -least:
        return 0.0, 0.0
    return max(epsilon, 0.0), least


def _least(s: np.ndarray, norms: np.ndarray) -> tuple[float, float]:
    """Return the epsilon that replaces smaller norms, as in ``F.normalize``, and its error; 0 if no norm is so small.

    An error of 0 means that some values are neither the norm nor that epsilon.
    """
    raised = s - norms > AGREED * s
    if (s - norms < -AGREED * s).any() or np.ptp(s[raised]) > AGREED * s.max() if raised.any() else False:
        return 0.0, 0.0
    if (norms[~raised] < s[raised].max(initial=0.0) * (1 - AGREED)).any():
        return 0.0, 0.0
    plain = (np.abs(s - norms)[~raised] <= AGREED * s[~raised]).all()
    return (float(s[raised].max(initial=0.0)), AGREED * float(s.max())) if plain else (0.0, 0.0)


def _with_running_statistics(case: Case, x: np.ndarray, y: np.ndarray) -> Iterator[Reading]:
    """Yield normalisations of each channel by running statistics."""
    mean, variance = (case.parameters.get(name) for name in ("running_mean", "running_var"))
    if mean is None or variance is None or mean.shape != (x.shape[1],) or len(x) * x[0, 0].size < 2:
        return
    apart = [-1] + [1] * (x.ndim - 2)
    axes = (0, *range(2, x.ndim))
    for (scale, w), (shift, b) in product(
        _options(case.parameters, x.shape, SCALES, 1.0), _options(case.parameters, x.shape, SHIFTS, 0.0)
    ):
        numerator, quotient = (x - mean.reshape(apart)) * w, y - b
        s = _divisors(case.limit, _behind(numerator, axes), _behind(quotient, axes), y)
        if s is not None:
            yield from _forms(s, variance, 1, RUNNING, True, scale, shift)
