"""Hypotheses on reductions: other axes, or the entry of one token instead of the mean. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from alignment.engine.explaining.case import Case

KINDS: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "maximum": np.max, "sum": np.sum}


def reduced(case: Case) -> str:
    """Test for a mean, maximum or sum of a known tensor over other axes, or of other entries."""
    for name, array in case.known.items():
        wrong = _reduction(case, case.actual, array)
        if wrong:
            right = _reduction(case, case.expected, array)
            return f"{wrong} of {name}" + (f" instead of {right}" if right else "")
    return ""


def _reduction(case: Case, side: np.ndarray, array: np.ndarray) -> str:
    """Return the reduction of ``array`` that gives ``side``; a single number is not conclusive."""
    for words, made in _reductions(array, side.size) if array.size > side.size > 1 else ():
        if case.same(side.ravel(), np.asarray(made()).ravel()):
            return words
    return ""


def _reductions(array: np.ndarray, size: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield reductions to ``size`` elements: a description, and the function."""
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
