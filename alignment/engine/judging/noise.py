"""How large a difference rounding alone explains, measured on the reference itself. No framework.

The reference runs in float64 and in float32. What separates the two at a tensor is the rounding that float32 does on
the way there; rounding is proportional to the unit roundoff, so the same way in float64 costs 2**-29 of it (24
against 53 bits of significand). Two correct implementations add up their terms in another order and so differ by a
small multiple of this floor. How small was measured over the twelve DLA networks, with fresh and with trained-like
weights, two seeds each, 17,000 tensors: at most 3.1 times in float32, 4.2 times in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from alignment.engine.judging.error import Difference, compare
from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import Tape

BITS = {"float32": 24, "float64": 53}
"""Bits of significand."""

MARGIN = {
    # twice the largest ratio that was measured, rounded up to a power of two
    "float32": 8.0,
    # The smallest mistake a port is known to make in float64 is a constant kept in float32: 6e-8 relative, 10**8
    # times the floor. The margin lies between that and the measured 4.2, near the middle of the logarithmic scale.
    "float64": 2.0**13,
}
"""By how much a tensor may exceed its floor."""

# What a layer alone may differ by in float64, over the largest magnitude. Isolated layers do not inherit anything, so
# the floor is that of one sum: 2**-53 times the root of its length (2**18 terms at most in practice), a few times.
FORWARD_LIMIT = 2.0**-53 * 2**9 * 8
# Paddle's kernels keep some constants of their backward pass in float32 also in float64 (1/49 of an average pool,
# 2e-8 relative, measured); a real mistake changes a gradient by far more.
BACKWARD_LIMIT = 2.0**-23

# Of a tensor that loses its third bit to float32 nothing is left but rounding: it is zero in theory, as the gradient
# of a bias in front of a normalisation by the batch's own statistics.
VANISHING = 2.0**-3

# What vanishes is small beside what was recorded with it: float32 made at most 5e-7 of the largest gradient of such
# tensors (11 of mobilenetv3_small_050 in training mode, with errors of up to 1e9); a thousandth is granted. Where ReLUs
# flip, float32 loses as many digits of tensors that do not vanish: up to 0.64 of them, 1.4e-3 of the largest (dla169).
CANCELLED = 2.0**-10

# What float32 leaves of a sum of many terms, over the largest of them: 8 units in the last place (2**-24 each). It
# only sets the scale by which what vanishes is shown; floor and error are divided by it alike.
TERMS = 2.0**-21


class RoundedRun(Store):
    """What the reference's second run, in float32, puts here is measured against its first and not kept.

    The same module on the same inputs records the same tensors in the same order: the nth array of one run is the nth
    of the other, and ``errors[n]`` its relative error. A module that does otherwise in float32 falls out of step.
    """

    keeps = False

    def __init__(self, exact: Store):
        super().__init__()
        self.errors: list[float] = []
        self._exact = exact

    def put(self, array: np.ndarray, like: Ref | None = None) -> Ref:
        """Measure ``array`` and let it go."""
        ref = Ref(len(self.refs), array.shape, array.dtype.str)
        self.refs.append(ref)
        known = ref.index < len(self._exact.refs)
        relative = compare(self._exact.get(self._exact.refs[ref.index]), array).relative if known else 0.0
        self.errors.append(relative)
        return ref

    @property
    def in_step(self) -> bool:
        """Whether both runs stored arrays of the same shapes in the same order, after the second has ended."""
        return [ref.shape for ref in self.refs] == [ref.shape for ref in self._exact.refs]


@dataclass(frozen=True)
class NoiseFloor:
    """Relative error that rounding alone explains in ``dtype``; ``errors`` are the reference's own in float32.

    ``errors`` go by the index of the reference's stored tensor.
    """

    dtype: str
    errors: Mapping[int, float]

    def of(self, ref: Ref) -> float:
        """The floor of one tensor; at least the unit roundoff, where the reference happens to be exact."""
        scale = 2.0 ** (BITS["float32"] - BITS[self.dtype])
        return max(self._error(ref) / self._beyond(ref) * scale, 2.0 ** -BITS[self.dtype])

    def allowed(self, ref: Ref) -> float:
        """The largest relative error that is still taken for rounding."""
        return MARGIN[self.dtype] * self.of(ref)

    def limits(self, ref: Ref) -> tuple[float, float]:
        """The floor of one tensor and what is allowed."""
        return self.of(ref), self.allowed(ref)

    def scaled(self, found: Difference, ref: Ref) -> Difference:
        """What was measured, relative to the scale by which this tensor is judged."""
        beyond = self._beyond(ref)
        return found if beyond == 1.0 else replace(found, relative=found.relative / beyond)

    def vanishes(self, ref: Ref) -> bool:
        """Whether the tensor is nothing but rounding."""
        return self._error(ref) > VANISHING

    def _error(self, ref: Ref) -> float:
        error = self.errors.get(ref.index, 0.0)
        # where the run in float32 left the range of numbers nothing was measured: the largest error elsewhere serves
        return error if np.isfinite(error) else self._largest

    @cached_property
    def _largest(self) -> float:
        """Of the tensors that do not vanish: the error of one that does says how small it is, not how it is rounded."""
        return max((error for error in self.errors.values() if error <= VANISHING), default=0.0)

    def _beyond(self, ref: Ref) -> float:
        """How many times larger than the tensor itself the terms are that it is the sum of.

        Of a tensor that vanishes the terms cancel. Rounding tells how large they are: in float32 their sum is off by a
        few units in the last place of them (``TERMS``), whatever is left of it. So a gradient that is zero in theory,
        of a bias in front of a normalisation, is judged by what it is the sum of, and no limit comes near to 1.
        """
        return self._error(ref) / TERMS if self.vanishes(ref) else 1.0


def credible(tape: Tape, errors: Mapping[int, float]) -> dict[int, float]:
    """``errors``, of which none says that a tensor vanishes that does not: those are as if a third bit were left.

    What vanishes is small beside what was recorded with it, values beside values and gradients beside gradients. An
    error that was edited, or that a float32 in disorder has left, would otherwise explain any difference in float64; a
    port in float32 may be in the same disorder.
    """
    result = dict(errors)
    values = [ref for record in tape for ref in record.output_refs()]
    slots = [slot for record in tape for slot in (*record.output_grads, *record.input_grads)]
    gradients = [slot.ref for slot in slots if slot and slot.ref] + [*tape.param_grads.values()]
    for refs in (values, gradients):
        result |= {ref.index: VANISHING for ref in _not_vanishing(tape, refs, errors)}
    return result


def _not_vanishing(tape: Tape, refs: list[Ref], errors: Mapping[int, float]) -> list[Ref]:
    """Those of ``refs`` that vanish by their ``errors``, and are too large for it."""
    suspects = [ref for ref in refs if VANISHING < errors.get(ref.index, 0.0) < np.inf]
    largest = max((_magnitude(tape.get(ref)) for ref in refs), default=0.0) if suspects else 0.0
    return [ref for ref in suspects if errors[ref.index] * _magnitude(tape.get(ref)) > CANCELLED * largest]


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array).max()) if array.size and array.dtype.kind in "fc" else 0.0


def run_in_both(run: Callable[[str, Store], Tape], budget: Budget) -> tuple[Tape, dict[int, float]]:
    """The reference's tape in float64, and its errors in float32 by the index of the tensor.

    ``run(dtype, store)`` runs the reference.
    """
    tape = run("float64", Store(budget))
    rounded = RoundedRun(tape.store)
    run("float32", rounded)
    if rounded.in_step:
        return tape, dict(enumerate(rounded.errors))
    return tape, measure_errors(tape, run("float32", Store(budget)))


def measure_errors(exact: Tape, rounded: Tape) -> dict[int, float]:
    """The errors of a run that was kept, record by record; what only one of them has is granted nothing."""
    errors: dict[int, float] = {}
    others = rounded.by_key()
    for record in exact:
        other = others.get(record.key, record)
        pairs = [*zip(record.output_refs(), other.output_refs())]
        for slot, twin in zip([*record.output_grads, *record.input_grads], [*other.output_grads, *other.input_grads]):
            pairs += [(slot.ref, twin.ref)] if slot and twin and slot.ref and twin.ref else []
        for ref, twin in pairs if other is not record else ():
            errors[ref.index] = _error(exact, ref, rounded, twin)
    for name in exact.param_grads.keys() & rounded.param_grads.keys():
        ref = exact.param_grads[name]
        errors[ref.index] = _error(exact, ref, rounded, rounded.param_grads[name])
    return errors


def _error(exact: Tape, ref: Ref, rounded: Tape, twin: Ref) -> float:
    return compare(exact.get(ref), rounded.get(twin)).relative
