"""Gradients that go wrong where the values are right. numpy only."""

from __future__ import annotations

from alignment.engine.explaining.arrangements import another_tensor, permuted
from alignment.engine.explaining.case import Case, factor
from alignment.engine.explaining.terms import scaled, vanished


def missing_share(case: Case) -> str:
    """The part of a gradient that flows through a known place is missing or scaled."""
    difference = case.actual - case.expected if case.same_shape else case.actual
    for name, array in case.fitting():
        weight = factor(difference, array)
        if not weight or not case.makes_actual(lambda e, a, w=weight: e + w * a, case.expected, array):
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
