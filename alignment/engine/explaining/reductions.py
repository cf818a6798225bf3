"""Means, maxima and sums over other axes, or the entry of one token for the mean of all. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from alignment.engine.explaining.case import Case, is_real

KINDS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "maximum": np.max, "sum": np.sum}


def reduced(case: Case) -> str:
    """A mean, maximum or sum over other axes of a known tensor, or of other entries of it."""
    for name, array in case.known.items():
        if is_real(array) and array.size > case.actual.size > 1:
            found = _reduction(case, array)
            if found:
                return f"{found} of {name}"
    return ""


def _reduction(case: Case, array: np.ndarray) -> str:
    for words, made in _reductions(array, case.actual.size):
        if case.same(case.actual.ravel(), np.asarray(made()).ravel()):
            return words
    return ""


def _reductions(array: np.ndarray, size: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """What leaves ``size`` elements: words, and how it is made."""
    for count in range(1, array.ndim + 1):
        for axes in combinations(range(array.ndim), count):
            if array.size == size * np.prod([array.shape[axis] for axis in axes], dtype=int):
                for kind, function in KINDS.items():
                    yield f"{kind} over axes {list(axes)}", lambda f=function, a=axes: f(array, a)
    for axis in range(1, array.ndim):
        length = array.shape[axis]
        if length > 1 and array.size == size * length:
            yield f"the first entry along axis {axis}", lambda a=axis: np.take(array, 0, a)
            yield f"the last entry along axis {axis}", lambda a=axis: np.take(array, -1, a)
        if length > 2 and array.size == size * length:
            # a class token, or a token of distillation, beside those of the image
            rest = range(1, length)
            yield f"mean along axis {axis} without the first entry", lambda a=axis, r=rest: np.take(array, r, a).mean(a)
            rest = range(2, length)
            yield f"mean along axis {axis} without the first two", lambda a=axis, r=rest: np.take(array, r, a).mean(a)
