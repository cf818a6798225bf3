"""What could make one array out of another: the mistakes that leave a trace in the numbers. numpy only.

Each hypothesis takes a ``Case`` (what the reference has, what the port has, what is known at that place) and returns
words where it explains what the port has in every element, to rounding; else ``""``. The first of a table that does is
the answer. A hypothesis that says more stands before one that says less, and one without a free number before one that
solves for it.
"""

from __future__ import annotations

from collections.abc import Callable

from alignment.engine.explaining import arrangements, discrete, gradients, normalising, rounding, terms
from alignment.engine.explaining.activations import activated_term, activation, gated
from alignment.engine.explaining.attention import attention, softened
from alignment.engine.explaining.case import Case, explain
from alignment.engine.explaining.reductions import reduced

Hypothesis = Callable[[Case], str]

FORWARD: tuple[Hypothesis, ...] = (
    rounding.not_finite,
    arrangements.rearranged,
    arrangements.moved,
    arrangements.reordered,
    arrangements.concatenated,
    terms.vanished,
    terms.own_parameter,
    terms.parameter_of_the_port,
    terms.scaled,
    arrangements.rolled,
    arrangements.permuted,
    terms.own_scale_of_a_term,
    terms.other_terms,
    activation,
    gated,
    attention,
    softened,
    normalising.normalisation,
    arrangements.another_tensor,
    activated_term,
    reduced,
    terms.dropped_out,
    terms.zeroed,
    rounding.rounded,
    terms.offset,
    terms.shifted,
)
"""For real numbers that a layer computes or hands on."""

DISCRETE: tuple[Hypothesis, ...] = (
    discrete.another_kind,
    arrangements.rearranged,
    discrete.inverted,
    discrete.another_relation,
    discrete.constant_mask,
    discrete.transposed_mask,
    discrete.counted_from,
    discrete.another_choice,
    discrete.negated,
    arrangements.another_tensor,
    discrete.how_many,
)
"""For booleans and integers, which are neither scaled nor rounded."""

COMPLEX: tuple[Hypothesis, ...] = (
    rounding.not_finite,
    arrangements.rearranged,
    discrete.parts_along_an_axis,
    terms.vanished,
    discrete.another_part,
    discrete.complex_factor,
    arrangements.moved,
    arrangements.another_tensor,
)
"""For complex numbers."""

BACKWARD: tuple[Hypothesis, ...] = (
    rounding.not_finite,
    gradients.scaled_gradient,
    gradients.missing_share,
    gradients.gradient_passed,
    gradients.permuted_gradient,
)
"""For gradients that go wrong where the values are right."""


def explain_value(case: Case) -> str:
    """Why a value is another, in words; ``""`` where nothing explains it."""
    kinds = {case.expected.dtype.kind, case.actual.dtype.kind}
    if "c" in kinds:
        return explain(case, COMPLEX)
    return explain(case, FORWARD if kinds == {"f"} else DISCRETE)


def explain_gradient(case: Case) -> str:
    """Why a gradient is another, in words; ``""`` where nothing explains it."""
    return explain(case, BACKWARD)
