"""What could make one array out of another: the mistakes that leave a trace in the numbers. numpy only.

Each hypothesis takes what the reference has (``expected``), what the port has (``actual``) and the tensors ``known``
at that place by name, and returns words where it explains ``actual`` to rounding, else ``""``. The first that does
is the answer; a hypothesis that says more stands before one that says less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np

from alignment.engine.judging.error import compare

_ERF = np.frompyfunc(math.erf, 1, 1)

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky relu (slope 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky relu (slope 0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
    "leaky relu (slope 0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x * 0.5 * (1 + _ERF(x / math.sqrt(2)).astype(np.float64)),
    "gelu (tanh)": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu (swish)": lambda x: x * _sigmoid(x),
    "sigmoid": lambda x: _sigmoid(x),
    "tanh": np.tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "softplus": lambda x: np.logaddexp(0, x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "softmax (axis 1)": lambda x: _softmax(x, 1) if x.ndim > 1 else x,
    "softmax (last axis)": lambda x: _softmax(x, -1) if x.ndim > 1 else x,
}


# A share of a tensor below this is no scaled residual but a constant that is written with six or seven digits, as the
# slope 0.1666667 of Paddle's hard sigmoid is.
FEW_DIGITS = 1e-6

SHIFTS = (1, -1, 2, -2)
"""Steps by which a map might be shifted."""


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


@dataclass(frozen=True)
class Case:
    """One array that differs. ``limit`` is the relative error that rounding explains."""

    expected: np.ndarray
    actual: np.ndarray
    known: Mapping[str, np.ndarray] = field(default_factory=dict)
    limit: float = 2.0**-41  # of one layer alone in float64, as FORWARD_LIMIT in isolate.py

    def is_actual(self, candidate: np.ndarray) -> bool:
        """Whether ``candidate`` explains what the port has."""
        return _same(self.actual, candidate, self.limit)

    def is_expected(self, candidate: np.ndarray) -> bool:
        """Whether ``candidate`` is what the reference has."""
        return _same(self.expected, candidate, self.limit)

    def fitting(self) -> Iterator[tuple[str, np.ndarray]]:
        """The known tensors of the shape of both."""
        if self.expected.shape == self.actual.shape:
            yield from ((name, array) for name, array in self.known.items() if array.shape == self.expected.shape)


def _same(array: np.ndarray, candidate: np.ndarray, limit: float) -> bool:
    return array.shape == candidate.shape and compare(array, candidate).relative <= limit


def explain(case: Case, hypotheses: tuple[Callable[[Case], str], ...]) -> str:
    """The words of the first hypothesis that holds, else ``""``."""
    with np.errstate(all="ignore"):
        return next((words for hypothesis in hypotheses if (words := hypothesis(case))), "")


def not_finite(case: Case) -> str:
    """NaN or infinity on one side only."""
    wrong = ~np.isfinite(case.actual)
    return f"{int(wrong.sum())} elements are not finite" if wrong.any() and np.isfinite(case.expected).all() else ""


def concatenated(case: Case) -> str:
    """Known tensors, joined along the channels in another order or with others among them."""
    right, wrong = _blocks(case.expected, case), _blocks(case.actual, case)
    if not (right and wrong) or right == wrong:
        return ""
    return f"concatenates {', '.join(wrong)} instead of {', '.join(right)}"


def _blocks(array: np.ndarray, case: Case) -> list[str]:
    """Names of the known tensors that make up ``array`` along axis 1; empty where they do not, or it is one."""
    if array.ndim < 2:
        return []
    found, start = [], 0
    while start < array.shape[1]:
        for name, part in case.known.items():
            width = part.shape[1] if part.ndim == array.ndim else 0
            if width and _same(array[:, start : start + width], part, case.limit):
                found.append(name)
                start += width
                break
        else:
            return []
    return found if len(found) > 1 else []


def scaled(case: Case) -> str:
    """All of it times a number."""
    if case.expected.shape != case.actual.shape:
        return ""
    factor = _factor(case.actual, case.expected)
    if not np.isfinite(factor) or factor == 0 or not case.is_actual(factor * case.expected):
        return ""
    if 0 < abs(factor - 1) <= 2.0**-24:
        return f"scaled by 1{factor - 1:+.3g}, as by a constant that is kept in float32"
    return f"scaled by {factor:.10g}"


def _factor(actual: np.ndarray, expected: np.ndarray) -> float:
    square = float(np.vdot(expected, expected))
    return float(np.vdot(expected, actual)) / square if square else np.nan


def vanished(case: Case) -> str:
    """All of it is zero."""
    return "is all zero" if case.expected.any() and not case.actual.any() else ""


def permuted(case: Case) -> str:
    """The same slices in another order along one axis; channels first."""
    if case.expected.shape != case.actual.shape:
        return ""
    axes = sorted((axis for axis, size in enumerate(case.expected.shape) if size > 1), key=lambda axis: axis != 1)
    for axis in axes:
        order = _order(case.expected, case.actual, axis)
        if case.is_actual(np.take(case.expected, order, axis)):
            name = {0: "entries of axis 0", 1: "channels"}.get(axis, f"positions along axis {axis}")
            if np.array_equal(order, np.arange(len(order))[::-1]):
                return f"{name} reversed (permuted)"
            return f"{name} permuted: {_runs(order)}"
    return ""


def _order(expected: np.ndarray, actual: np.ndarray, axis: int) -> np.ndarray:
    """Which slice of ``expected`` is nearest to each of ``actual``, by a random projection."""
    direction = np.random.RandomState(0).standard_normal(expected.size // expected.shape[axis])
    ours, theirs = (
        np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) @ direction for array in (expected, actual)
    )
    by_value = np.argsort(ours, kind="stable")
    right = np.clip(np.searchsorted(ours[by_value], theirs), 1, len(ours) - 1)
    left_is_nearer = np.abs(ours[by_value][right - 1] - theirs) <= np.abs(ours[by_value][right] - theirs)
    return by_value[np.where(left_is_nearer, right - 1, right)]


def _runs(order: np.ndarray, shown: int = 6) -> str:
    """``0-63, 128-191, 64-127``: the order as runs of neighbours."""
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    runs = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in np.split(order, breaks)]
    return ", ".join(runs[:shown]) + (", ..." if len(runs) > shown else "")


def other_terms(case: Case) -> str:
    """A known tensor is missing from the sum, is in it with another weight, or stands in another's place."""
    difference = case.actual - case.expected if case.actual.shape == case.expected.shape else case.actual
    fitting = [*case.fitting()]
    for name, array in fitting:
        weight = _factor(difference, array)
        if weight and case.is_actual(case.expected + weight * array):
            return _term(name, weight)
    for (one, a), (other, b) in combinations(fitting, 2):
        for (taken, plus), (left, minus) in (((one, a), (other, b)), ((other, b), (one, a))):
            if case.is_actual(case.expected + plus - minus):
                return f"residual: {taken} is added instead of {left}"
    return ""


def _term(name: str, weight: float) -> str:
    if abs(weight + 1) < 1e-9:
        return f"residual missing: {name} is not added"
    if abs(weight - 1) < 1e-9:
        return f"residual: {name} is added once more than in the reference"
    if abs(weight) < FEW_DIGITS:
        return f"a constant with few digits: {weight:+.2g} times {name} is added"
    return f"residual scaled: {name} is added {1 + weight:.6g} times instead of once"


def activated_term(case: Case) -> str:
    """One term of the sum went through an activation before."""
    for name, array in case.fitting():
        for kind, function in ACTIVATIONS.items():
            if case.is_actual(case.expected - array + function(array)):
                return f"{kind} on {name} before it is added"
    return ""


def activation(case: Case) -> str:
    """Another activation, one too many or one too few."""
    if case.expected.shape != case.actual.shape:
        return ""
    for name, array in case.fitting():
        for kind, function in ACTIVATIONS.items():
            if case.is_actual(function(array)):
                right = next((k for k, f in ACTIVATIONS.items() if case.is_expected(f(array))), "")
                return f"activation {kind} of {name}" + (f" instead of {right}" if right else "")
    for kind, function in ACTIVATIONS.items():
        if case.is_expected(function(case.actual)):
            return f"activation {kind} is missing"
        if case.is_actual(function(case.expected)):
            return f"activation {kind} is applied besides"
    return ""


def another_tensor(case: Case) -> str:
    """What another known tensor is."""
    name = next((name for name, array in case.known.items() if case.is_actual(array)), "")
    right = next((n for n, array in case.known.items() if case.is_expected(array)), "")
    return f"is {name}" + (f" instead of {right}" if right else "") if name else ""


def reduced(case: Case) -> str:
    """A mean, maximum or sum over other axes of a known tensor."""
    for name, array in case.known.items():
        for kind, function in (("mean", np.mean), ("maximum", np.max), ("sum", np.sum)):
            for count in range(1, array.ndim + 1):
                for axes in combinations(range(array.ndim), count):
                    found = np.asarray(function(array, axes))
                    if found.size == case.actual.size and _same(case.actual.ravel(), found.ravel(), case.limit):
                        return f"{kind} over axes {list(axes)} of {name}"
    return ""


def rearranged(case: Case) -> str:
    """The same elements under another shape or with axes exchanged."""
    if case.expected.size != case.actual.size or case.expected.shape == case.actual.shape:
        return ""
    if _same(case.expected.ravel(), case.actual.ravel(), case.limit):
        return f"shape {list(case.actual.shape)} instead of {list(case.expected.shape)}, the same elements"
    return ""


def moved(case: Case) -> str:
    """The same map turned, mirrored or shifted, or the batch in another order."""
    if case.expected.shape != case.actual.shape:
        return ""
    return next((words for words, other in _moves(case.expected) if case.is_actual(other)), "")


def _moves(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    if array.ndim >= 4:
        yield "height and width exchanged", array.swapaxes(-1, -2)
    for axis in range(2, array.ndim):
        yield f"mirrored along axis {axis}", np.flip(array, axis)
    for axis, step in product(range(array.ndim), SHIFTS):
        yield f"shifted by {step} along axis {axis}", np.roll(array, step, axis)


def dropped_out(case: Case) -> str:
    """Elements that are zero, and all others larger by one factor."""
    if case.expected.shape != case.actual.shape:
        return ""
    gone = (case.actual == 0) & (case.expected != 0)
    if not gone.any() or gone.all():
        return ""
    kept = np.where(gone, 0, case.expected)
    factor = _factor(case.actual, kept)
    rate = 1 - 1 / factor
    return f"dropout is active, rate {rate:.3g}" if 0 <= rate < 1 and case.is_actual(factor * kept) else ""


def shifted(case: Case) -> str:
    """A constant for each channel is added: a bias that is missing or another."""
    if case.expected.shape != case.actual.shape or case.expected.ndim < 2:
        return ""
    other = tuple(axis for axis in range(case.expected.ndim) if axis != 1)
    step = (case.actual - case.expected).mean(other, keepdims=True)
    few = case.expected.size // case.expected.shape[1] < 2  # one value says nothing about a constant
    return "" if few or not case.is_actual(case.expected + step) else "bias: a constant is added to each channel"


def rounded(case: Case) -> str:
    """Every value is one that a narrower type has, and near the right one."""
    if case.actual.shape != case.expected.shape or not case.actual.any():
        return ""
    for name, bits in (("bfloat16", 8), ("float16", 11), ("float32", 24)):
        # as wide as a few roundings make it; the values themselves must be that type's exactly
        near = compare(case.expected, case.actual).relative <= 2.0 ** (6 - bits)
        if near and np.array_equal(case.actual, narrowed(case.actual, name)):
            return f"computed in {name} (rounded)"
    return ""


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` as ``dtype`` holds it, in its own type. bfloat16 rounds to nearest even, as both frameworks do."""
    if dtype != "bfloat16":
        return array.astype(dtype).astype(array.dtype)
    bits = array.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(array.dtype)


def partly(case: Case) -> str:
    """Where along an axis the difference is, if only at some places."""
    if case.actual.shape != case.expected.shape:
        return ""
    scale = float(np.abs(case.expected).max()) * case.limit
    wrong = ~(np.abs(case.actual - case.expected) <= scale)
    for axis in sorted(range(wrong.ndim), key=lambda a: a != 1):
        places = np.flatnonzero(wrong.any(axis=tuple(a for a in range(wrong.ndim) if a != axis)))
        if len(places) * 2 <= wrong.shape[axis]:
            return f"unexplained; only at {_runs(places)} of {wrong.shape[axis]} along axis {axis}"
    return ""


FORWARD = (
    not_finite, rearranged, moved, concatenated, vanished, scaled, permuted, other_terms, activation, another_tensor,
    activated_term, reduced, dropped_out, rounded, shifted,
)  # fmt: skip
"""For what a layer computes or hands on."""


def missing_share(case: Case) -> str:
    """The part of a gradient that flows through a known place is missing or scaled."""
    difference = case.actual - case.expected if case.actual.shape == case.expected.shape else case.actual
    for name, array in case.fitting():
        weight = _factor(difference, array)
        if not weight or not case.is_actual(case.expected + weight * array):
            continue
        if abs(weight + 1) < 1e-6:
            return f"the gradient that comes through {name} is missing (detached)"
        return f"the gradient that comes through {name} is scaled by {1 + weight:.6g}"
    return ""


def scaled_gradient(case: Case) -> str:
    """All of a gradient is zero, or times a number."""
    if vanished(case):
        return "no gradient arrives (detached)"
    words = scaled(case)
    return f"gradient {words}" if words else ""


def gradient_passed(case: Case) -> str:
    """The gradient of the output is passed on as it is."""
    words = another_tensor(case)
    return f"gradient {words}" if words else ""


def permuted_gradient(case: Case) -> str:
    """A gradient whose slices are in another order."""
    words = permuted(case)
    return f"gradient: {words}" if words else ""


BACKWARD = (not_finite, scaled_gradient, missing_share, gradient_passed, permuted_gradient)
"""For gradients that go wrong where the values are right."""
