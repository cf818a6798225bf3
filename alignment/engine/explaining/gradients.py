"""Hypotheses on wrong gradients with right values. numpy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alignment.engine.explaining.arrangements import another_tensor, permuted, runs, turned
from alignment.engine.explaining.case import Case
from alignment.engine.explaining.terms import scaled, vanished


def missing_share(case: Case) -> str:
    """Test whether the part of a gradient through a known place is missing or scaled."""
    for name, array in _shares(case):
        weight = case.multiple(array)
        if not np.isfinite(weight) or not weight:
            continue
        if abs(weight + 1) < 1e-6:
            return f"the gradient that comes through {name} is missing (detached)"
        return f"the gradient that comes through {name} is scaled by {1 + weight:.6g}"
    return ""


def _shares(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """Yield known gradients in the shape of this one; that of a mean is spread evenly over its inputs."""
    yield from case.fitting()
    shape = case.expected.shape
    for name, array in case.known.items() if case.same_shape else ():
        if array.ndim == 2 < len(shape):
            array = array.reshape(*array.shape, *[1] * (len(shape) - 2)) if array.shape == shape[:2] else array[:, None]
        if array.ndim == len(shape) and array.shape != shape and all(n in (1, m) for n, m in zip(array.shape, shape)):
            yield name, np.broadcast_to(array * (array.size / case.expected.size), shape)


def scaled_gradient(case: Case) -> str:
    """Test for a gradient that is zero or scaled."""
    if vanished(case):
        return "no gradient arrives (detached)"
    words = scaled(case)
    return f"gradient {words}" if words else ""


def missing_at(case: Case) -> str:
    """Test for a gradient that is zero at some positions along one axis, and right at all others."""
    if not case.same_shape:
        return ""
    for axis, length in enumerate(case.actual.shape):
        others = tuple(other for other in range(case.actual.ndim) if other != axis)
        gone = case.expected.any(others) & ~case.actual.any(others)
        shape = [-1 if other == axis else 1 for other in range(case.actual.ndim)]
        if gone.any() and not gone.all() and case.is_actual(np.where(gone.reshape(shape), 0, case.expected)):
            return f"no gradient arrives at {runs(np.flatnonzero(gone))} of {length} along axis {axis} (detached)"
    return ""


def gradient_passed(case: Case) -> str:
    """Test whether the gradient of the output is passed on unchanged."""
    words = another_tensor(case)
    return f"gradient {words}" if words else ""


def permuted_gradient(case: Case) -> str:
    """Test for a gradient with permuted slices."""
    words = permuted(case)
    return f"gradient: {words}" if words else ""


def turned_gradient(case: Case) -> str:
    """Test for the gradient of a tensor whose axes the port permutes."""
    words = turned(case)
    return f"gradient: {words}" if words else ""
