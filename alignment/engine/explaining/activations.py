"""Hypotheses on activations: extra, missing or different ones; gates with swapped halves. numpy only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from alignment.engine.explaining.case import Case

# The default slope of Paddle's hard sigmoid, and 1 / 6 as its kernel stores it, in float32.
PADDLE_SLOPE, SIXTH = (float(np.float32(slope)) for slope in (0.1666667, 1 / 6))
SELU_32 = [float(np.float32(constant)) for constant in (1.0507009873, 1.6732632423)]
"""SELU's constants as Paddle's kernel stores them, in float32."""
_ERF = np.frompyfunc(math.erf, 1, 1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return ``1 / (1 + exp(-x))`` without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def _selu(x: np.ndarray, scale: float, alpha: float) -> np.ndarray:
    return scale * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Return the exponentials along ``axis``, normalised to a sum of 1."""
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky relu (slope 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky relu (slope 0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
    "leaky relu (slope 0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: _selu(x, 1.0507009873554805, 1.6732632423543772),
    "selu (constants in float32, Paddle's)": lambda x: _selu(x, *SELU_32),
    "gelu": lambda x: x * 0.5 * (1 + np.asarray(_ERF(x / math.sqrt(2)), np.float64)),
    "gelu (tanh)": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu (quick, sigmoid of 1.702 x)": lambda x: x * sigmoid(1.702 * x),
    "silu (swish)": lambda x: x * sigmoid(x),
    "sigmoid": lambda x: sigmoid(x),
    "tanh": np.tanh,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hardsigmoid (slope 0.1666667, Paddle's)": lambda x: np.clip(PADDLE_SLOPE * x + 0.5, 0, 1),
    "hardsigmoid (slope 1 / 6 in float32)": lambda x: np.clip(SIXTH * x + 0.5, 0, 1),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "softplus": lambda x: np.logaddexp(0, x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "squared relu": lambda x: np.maximum(x, 0) ** 2,
    "softsign": lambda x: x / (1 + np.abs(x)),
}
"""Elementwise activations by name."""

GATES = {"": lambda x: x, **{kind: ACTIVATIONS[kind] for kind in ("sigmoid", "tanh", "gelu", "silu (swish)", "relu")}}
"""The activation of one half of a gated unit (GLU, GEGLU, SwiGLU)."""


def activated_term(case: Case) -> str:
    """Test whether one term of the sum goes through an activation first."""
    for name, array in case.fitting():
        for kind, function in ACTIVATIONS.items():
            if case.makes_actual(lambda e, a, f=function: e - a + f(a), case.expected, array):
                return f"{kind} on {name} before it is added"
    return ""


def activation(case: Case) -> str:
    """Test for a different, an extra or a missing activation."""
    if not case.same_shape:
        return ""
    for name, array in case.fitting():
        kind = _kind(case, case.actual, array)
        if kind:
            right = _kind(case, case.expected, array)
            return f"activation {kind} of {name}" + (f" instead of {right}" if right else "")
    missing = _kind(case, case.expected, case.actual)
    if missing:
        return f"activation {missing} is missing"
    besides = _kind(case, case.actual, case.expected)
    return f"activation {besides} is applied besides" if besides else ""


def _kind(case: Case, array: np.ndarray, argument: np.ndarray) -> str:
    """Return the activation that turns ``argument`` into ``array``, if any; a ReLU of positive numbers does not count.

    Of two that do, as ReLU and ReLU6 of small numbers, the first by name is returned.
    """
    if array is argument or case.same(array, argument):
        return ""
    found = (kind for kind, function in ACTIVATIONS.items() if case.makes(array, function, argument))
    axes = (f"softmax (axis {axis} of {array.ndim})" for axis in _softmax_axes(case, array, argument))
    return next(found, "") or next(axes, "")


def _softmax_axes(case: Case, array: np.ndarray, argument: np.ndarray) -> Iterator[int]:
    """Yield the axes over which ``array`` is the softmax of ``argument``, first tested on sums of the first row."""
    for axis in range(argument.ndim if array.shape == argument.shape and array.size else 0):
        first = array[(0,) * axis + (slice(None),) + (0,) * (array.ndim - axis - 1)]
        if abs(first.sum() - 1) <= case.limit * len(first) and case.same(array, softmax(argument, axis)):
            yield axis


def gated(case: Case) -> str:
    """Test gated units: another gate, or the other half as the gate."""
    if not case.same_shape:
        return ""
    for name, array in case.known.items():
        for halves in _halves(array, case.expected.shape):
            right, wrong = (_gate(case, side, *halves) for side in (case.expected, case.actual))
            if right and wrong and right != wrong:
                return f"{wrong} of the halves of {name} instead of {right}"
    return ""


def _halves(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the two parts of ``array``, each of ``shape``: the first and second half, or every other entry."""
    for axis in range(len(shape)):
        if array.shape == (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]) and array.size:
            first, second = np.split(array, 2, axis)
            yield first, second
            at = (slice(None),) * axis
            yield array[(*at, slice(0, None, 2))], array[(*at, slice(1, None, 2))]


def _gate(case: Case, side: np.ndarray, one: np.ndarray, other: np.ndarray) -> str:
    for kind, function in GATES.items():
        by = kind or "itself"
        if case.makes(side, lambda a, b, f=function: a * f(b), one, other):
            return f"first times {by}(second)" if kind else "the product"
        if kind and case.makes(side, lambda a, b, f=function: f(a) * b, one, other):
            return f"{by}(first) times second"
    return ""
