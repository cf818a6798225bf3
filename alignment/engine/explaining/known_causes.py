"""The known causes: hypotheses that explain one array by another, by the trace that a mistake leaves. numpy only.

Each hypothesis takes a ``Case`` (the reference's array, the port's array, the tensors known at that place) and returns
a description if it explains the port's array in every element, to rounding; else ``""``. The first hypothesis of a
table that holds is the answer. More specific hypotheses stand before less specific ones, and hypotheses without a free
number before those that solve for one.
"""

from __future__ import annotations

from alignment.engine.explaining import arrangements, discrete, gradients, normalising, rounding, terms
from alignment.engine.explaining.activations import activated_term, activation, gated
from alignment.engine.explaining.attention import attention, masked, softened
from alignment.engine.explaining.case import Case, Hypothesis, explain
from alignment.engine.explaining.expressions import expression
from alignment.engine.explaining.reductions import reduced

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
    arrangements.turned,
    arrangements.moved_before_it_is_flattened,
    arrangements.permuted,
    arrangements.moved_before_a_parameter_is_added,
    terms.own_scale_of_a_term,
    terms.other_terms,
    activation,
    gated,
    attention,
    masked,
    softened,
    normalising.normalisation,
    activated_term,
    reduced,
    expression,
    arrangements.another_tensor,
    terms.dropped_out,
    terms.zeroed,
    rounding.rounded,
    terms.offset,
    terms.shifted,
)
"""For real numbers that a layer computes or passes on."""

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
"""For booleans and integers, which are not scaled or rounded."""

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
    gradients.missing_at,
    gradients.gradient_passed,
    gradients.permuted_gradient,
    gradients.turned_gradient,
)
"""For wrong gradients with right values."""


def explain_value(case: Case, tried_first: list[Hypothesis] | None = None) -> str:
    """Explain why a value differs; ``""`` if nothing explains it. ``tried_first`` as in ``explain``."""
    kinds = {case.expected.dtype.kind, case.actual.dtype.kind}
    if "c" in kinds:
        return explain(case, COMPLEX)
    return explain(case, FORWARD, tried_first) if kinds == {"f"} else explain(case, DISCRETE)


def explain_gradient(case: Case) -> str:
    """Explain why a gradient differs; ``""`` if nothing explains it."""
    return explain(case, BACKWARD)
