"""Hypotheses on booleans, integers and complex numbers. numpy only."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import numpy as np

from alignment.engine.explaining.case import Case, varied

KINDS = {"b": "booleans", "i": "integers", "u": "integers", "f": "real numbers", "c": "complex numbers"}
RELATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
ORDERED = "fiu"
"""Kinds of numbers with an order of size."""
CHOICES: dict[str, Callable[..., np.ndarray]] = {"argmax": np.argmax, "argmin": np.argmin}


def another_kind(case: Case) -> str:
    """Test for another kind of number: integers for reals, reals for complex ones; the width does not count."""
    right, wrong = (KINDS.get(array.dtype.kind, "objects") for array in (case.expected, case.actual))
    if right == wrong or "complex numbers" in (right, wrong):
        return ""
    same = case.same_shape and np.array_equal(case.expected.astype(np.float64), case.actual.astype(np.float64))
    return f"{wrong} instead of {right}" + (", the same values" if same else "")


def inverted(case: Case) -> str:
    """Test for an inverted mask."""
    if _both(case, "b") and np.array_equal(case.actual, ~case.expected):
        return "inverted: true where the reference is false"
    return ""


def another_relation(case: Case) -> str:
    """Test for another comparison of a known tensor with 0."""
    if not _both(case, "b"):
        return ""
    for name, array in case.known.items():
        if array.dtype.kind not in ORDERED or array.shape != case.expected.shape:
            continue
        right, wrong = (
            [sign for sign, relation in RELATIONS.items() if np.array_equal(side, relation(array, 0))]
            for side in (case.expected, case.actual)
        )
        if right and wrong:
            return f"{name} {wrong[0]} 0 instead of {right[0]} 0"
    return ""


def constant_mask(case: Case) -> str:
    """Test for a constant mask."""
    if _both(case, "b") and varied(case.expected) and not varied(case.actual):
        return f"is {'true' if case.actual.all() else 'false'} everywhere"
    return ""


def transposed_mask(case: Case) -> str:
    """Test for swapped rows and columns, as of a lower and an upper triangle."""
    square = case.expected.ndim >= 2 and case.expected.shape[-1] == case.expected.shape[-2]
    if _both(case, "b") and square and np.array_equal(case.actual, case.expected.swapaxes(-1, -2)):
        return "rows and columns are exchanged"
    return ""


def counted_from(case: Case) -> str:
    """Test for integers that are all larger by one number; a single value is not conclusive."""
    if not _both(case, "iu") or not varied(case.expected):
        return ""
    step = int(case.actual.flat[0]) - int(case.expected.flat[0])
    if step and np.array_equal(case.actual, case.expected + step):
        return f"each number is {'larger' if step > 0 else 'smaller'} by {abs(step)}: shifted by {step:+d}"
    return ""


def another_choice(case: Case) -> str:
    """Test for the index of another extreme of a known tensor, or along another axis."""
    if not _both(case, "iu"):
        return ""
    for name, array in case.known.items():
        right = next(_choices(array, case.expected), "") if array.dtype.kind in ORDERED else ""
        wrong = next(_choices(array, case.actual), "") if right else ""
        if wrong:
            return f"{wrong} of {name} instead of {right}"
    return ""


def _choices(array: np.ndarray, side: np.ndarray) -> Iterator[str]:
    for kind, function in CHOICES.items():
        for axis in range(array.ndim):
            fits = array.size // array.shape[axis] == side.size > 1
            if fits and np.array_equal(function(array, axis).ravel(), side.ravel()):
                yield f"{kind} over axis {axis}"


def negated(case: Case) -> str:
    """Test for integers with the other sign."""
    return "negated" if _both(case, "iu") and np.array_equal(case.actual, -case.expected) else ""


def _both(case: Case, kinds: str) -> bool:
    return case.same_shape and case.expected.dtype.kind in kinds and case.actual.dtype.kind in kinds


def how_many(case: Case) -> str:
    """Report how many integers or booleans differ."""
    if not case.same_shape:
        return ""
    wrong = int((case.actual != case.expected).sum())
    return f"unexplained; {wrong} of {case.actual.size} differ" if wrong else ""


# --- complex numbers ------------------------------------------------------------------------------------------------


def another_part(case: Case) -> str:
    """Test for the conjugate, a single part, swapped parts, or the magnitude."""
    if not case.same_shape:
        return ""
    e = case.expected
    real, imaginary = np.real(e), np.imag(e)
    if case.actual.dtype.kind != "c":
        alone = {
            "the imaginary part is lost": real,
            "the real part is lost": imaginary,
            "the magnitude alone": np.abs(e),
        }
        found = next((words for words, part in alone.items() if case.is_actual(part)), "")
        return found and f"{found}: real numbers instead of complex ones"
    parts = (
        ("the complex conjugate: the imaginary part has the other sign", e.conj()),
        ("the imaginary part is lost (zero)", real + 0j),
        ("the real part is lost (zero)", 1j * imaginary),
        ("the real and the imaginary part are exchanged", imaginary + 1j * real),
        ("the magnitude alone", np.abs(e) + 0j),
    )
    return next((words for words, part in parts if case.is_actual(part)), "")


def parts_along_an_axis(case: Case) -> str:
    """Test for real numbers with the two parts along a last axis."""
    e = case.expected
    if case.actual.shape != (*e.shape, 2) or not case.is_actual(np.stack([np.real(e), np.imag(e)], -1)):
        return ""
    return "real numbers instead of complex ones: the real and the imaginary part along a last axis"


def complex_factor(case: Case) -> str:
    """Test for a factor, possibly complex; e.g. a transform without its norm, 1 / n or its root."""
    if not case.same_shape or not varied(case.expected):
        return ""
    number = complex(np.vdot(case.expected, case.actual) / np.vdot(case.expected, case.expected).real)
    if not number or not np.isfinite(number) or not case.is_actual(number * case.expected):
        return ""
    plain = number.real if abs(number.imag) <= case.limit * abs(number) else number
    return f"scaled by {plain:.10g}"
