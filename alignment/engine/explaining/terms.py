"""Hypotheses on sums and products: a missing, extra, scaled or different term, factor or offset. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from alignment.engine.explaining.activations import sigmoid
from alignment.engine.explaining.case import Case, applicable, factor, varied

# A smaller share of a tensor is not a scaled residual but a constant written with six or seven digits, such as the
# slope 0.1666667 of Paddle's hard sigmoid.
FEW_DIGITS = 1e-6

MOST_OF_A_ROOT = 2**16
"""The largest width: beyond it any number is near the root of a whole one."""

READINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "{}": lambda p: p,
    "exp({})": np.exp,
    "sigmoid({})": sigmoid,
    "tanh({})": np.tanh,
    "(1 + {})": lambda p: 1 + p,
}
"""The ways in which a parameter becomes a factor: a layer scale, CLIP's temperature, a gate, DiT's modulation."""


def scaled(case: Case) -> str:
    """Test for a factor."""
    if not case.same_shape:
        return ""
    number = 1 + case.multiple(case.expected)
    if not np.isfinite(number) or number == 0:
        return ""
    if 0 < abs(number - 1) <= 2.0**-24:
        return f"scaled by 1{number - 1:+.3g}, as by a constant that is kept in float32"
    return f"scaled by {number:.10g}{as_root(number)}"


def as_root(number: float) -> str:
    """Describe ``number`` if it is the root of a whole number or one over it, like the scale by a width."""
    for value, words in ((abs(number), "the root of"), (1 / abs(number), "one over the root of")):
        square = value**2
        whole = round(square) if 1 < square < MOST_OF_A_ROOT else 0
        if whole and abs(square - whole) <= 1e-9 * square and abs(value - round(value)) > 1e-6:
            return f" ({words} {whole})"
    return ""


def vanished(case: Case) -> str:
    """Test for an array that is all zero."""
    return "is all zero" if case.expected.any() and not case.actual.any() else ""


def offset(case: Case) -> str:
    """Test for an added number."""
    if not case.same_shape or not varied(case.expected):
        return ""
    step = float((case.actual - case.expected).mean())
    return f"{step:+.10g} is added to every element" if case.makes_actual(lambda e: e + step, case.expected) else ""


# --- terms of a sum -------------------------------------------------------------------------------------------------


def other_terms(case: Case) -> str:
    """Test for a known tensor that is missing from the sum, has another weight, or replaces another."""
    if not case.same_shape:
        return ""
    fitting = [*case.fitting()]
    for name, array in fitting:
        weight = case.multiple(array)
        if np.isfinite(weight) and weight:
            return _term(name, weight)
    for (one, a), (other, b) in combinations(fitting, 2):
        for (taken, plus), (left, minus) in (((one, a), (other, b)), ((other, b), (one, a))):
            if case.makes_actual(lambda e, p, m: e + p - m, case.expected, plus, minus):
                return f"residual: {taken} is added instead of {left}"
    return ""


def _term(name: str, weight: float) -> str:
    if abs(weight + 1) < 1e-9:
        return f"residual missing: {name} is not added"
    if abs(weight - 1) < 1e-9:
        return f"residual: {name} is added once more than in the reference"
    if abs(weight + 2) < 1e-9:
        return f"residual: {name} is subtracted instead of added"
    if abs(weight) < FEW_DIGITS:
        return f"a constant with few digits: {weight:+.2g} times {name} is added"
    return f"residual scaled: {name} is added {1 + weight:.6g} times instead of once"


# --- parameters of the layer's own ----------------------------------------------------------------------------------


def own_parameter(case: Case) -> str:
    """Test for a parameter of the reference, a scale or an offset, that the port leaves out or applies twice."""
    if not case.same_shape:
        return ""
    e, a = case.expected, case.actual
    for name, plain in applicable(case.parameters, case.expected.shape):
        for reading, p in _read(name, plain):
            if case.makes_expected(lambda a, p: a * p, a, p):
                return f"{reading} is not applied: the output is not multiplied by it"
            if case.makes_actual(lambda e, p: e * p, e, p):
                return f"{reading} is applied twice: the output is multiplied by it once more"
            if case.makes_expected(lambda a, p: a * p * p, a, p):
                return f"the output is divided by {reading} instead of multiplied"
        for share, words in ((-1, "is not added"), (1, "is added twice"), (-2, "is subtracted instead of added")):
            if case.makes_actual(lambda e, p, s=share: e + s * p, e, plain):
                return f"{name} {words}"
    return ""


def own_scale_of_a_term(case: Case) -> str:
    """Test for a term of the sum that is not multiplied by its parameter, e.g. a layer scale."""
    for name, plain in applicable(case.parameters, case.expected.shape):
        for reading, p in _read(name, plain):
            for branch, array in case.fitting():
                if case.makes_actual(lambda e, k, p: e + (1 - p) * k, case.expected, array, p):
                    return f"{reading} is not applied to {branch} before it is added"
                if case.makes_actual(lambda e, k, p: e - p * k, case.expected, array, p):
                    return f"residual missing: {reading} times {branch} is not added"
                if case.makes_actual(lambda e, k, p: e + p * k, case.expected, array, p):
                    return f"residual: {reading} times {branch} is added once more than in the reference"
                if case.makes_actual(lambda e, k, p: e + (p * p - p) * k, case.expected, array, p):
                    return f"{reading} is applied twice to {branch} before it is added"
    return ""


def parameter_of_the_port(case: Case) -> str:
    """Test for a parameter of the port only that multiplies the output or a term, or is added."""
    if not case.same_shape:
        return ""
    for name, plain in applicable(case.extra, case.expected.shape):
        only = f"{name}, a parameter that the reference does not have"
        for reading, p in _read(name, plain):
            if case.makes_actual(lambda e, p: e * p, case.expected, p):
                by = f"scaled by {p.flat[0]:.6g}, " if p.size == 1 else "multiplied by "
                return f"{by}{reading.replace(name, only)}"
            for branch, array in case.fitting():
                if case.makes_actual(lambda e, k, p: e + (p - 1) * k, case.expected, array, p):
                    return f"{branch} is multiplied by {reading.replace(name, only)}"
        if case.makes_actual(lambda e, p: e + p, case.expected, plain):
            return f"{only}, is added"
    return ""


def _read(name: str, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the readings of a parameter as a factor, except those that are 1 throughout, which have no effect."""
    for reading, function in READINGS.items():
        made = function(array)
        if (made != 1).any():
            yield reading.format(name), made


# --- what is added or lost ------------------------------------------------------------------------------------------


def dropped_out(case: Case) -> str:
    """Test for active dropout: some elements are zero, and all others larger by one factor."""
    if not case.same_shape:
        return ""
    gone = (case.actual == 0) & (case.expected != 0)
    if not gone.any() or not varied(case.expected[~gone]):  # a single remaining value fits any factor
        return ""
    kept = np.where(gone, 0, case.expected)
    number = factor(case.actual, kept)
    # a factor of 1 is not dropout: something else zeroed those elements
    if not number > 1 + 1e-6 or not case.makes_actual(lambda k: number * k, kept):
        return ""
    return f"dropout is active, rate {1 - 1 / number:.3g}"


def zeroed(case: Case) -> str:
    """Test for some zero elements with all others right."""
    if not case.same_shape:
        return ""
    gone = (case.actual == 0) & (case.expected != 0)
    if not gone.any() or gone.all() or not case.is_actual(np.where(gone, 0, case.expected)):
        return ""
    return f"{int(gone.sum())} of {gone.size} elements are zero, as behind a mask; all others are right"


def shifted(case: Case) -> str:
    """Test for a constant added to each channel: a bias that is missing or different."""
    if not case.same_shape or case.expected.ndim < 2:
        return ""
    for axis in dict.fromkeys((1, case.expected.ndim - 1)):
        other = tuple(n for n in range(case.expected.ndim) if n != axis)
        # a value that is constant in each channel may just as well be scaled, or another
        told = (case.expected != case.expected.mean(other, keepdims=True)).any()
        step = (case.actual - case.expected).mean(other, keepdims=True)
        if told and case.makes_actual(lambda e, s: e + s, case.expected, step):
            where = "channel" if axis == 1 or case.expected.ndim == 3 else "entry of the last axis"
            return f"bias: a constant is added to each {where}"
    return ""
