"""How large a difference rounding alone explains, measured on the reference itself. No framework.

The reference runs in float64 and in float32. What separates the two at a tensor is the rounding that float32 does on
the way there; rounding is proportional to the unit roundoff, so the same way in float64 costs 2**-29 of it (24
against 53 bits of significand). Two correct implementations add up their terms in another order and so differ by a
small multiple of this floor. How small was measured over the twelve DLA networks, with fresh and with trained-like
weights, two seeds each, 17,000 tensors: at most 3.1 times in float32, 4.2 times in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple, Protocol

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

LEAKS = 4.0
"""By how much what constants in float32 do to a gradient may exceed what each kind does to the reference's, in sum: a
port may have an average pool in one place and an exact one in another, and what leaks in at one may undo what does at
another. In MixNet, GhostNet and PoolFormer, where pools and means differ, the ratio is 1.0 (measured).
"""
MOST_LEAKED = 2.0**-12
"""What is allowed of it at most: a hundred times the largest that was measured (2e-6, ResNet-50 in training)."""
# What vanishes is small beside what was recorded with it: float32 made at most 5e-7 of the largest gradient of such
# tensors (11 of mobilenetv3_small_050 in training mode, with errors of up to 1e9); a thousandth is granted. Where ReLUs
# flip, float32 loses as many digits of tensors that do not vanish: up to 0.64 of them, 1.4e-3 of the largest (dla169).
CANCELLED = 2.0**-10

# What float32 leaves of a sum of many terms, over the largest of them: 8 units in the last place (2**-24 each). It
# only sets the scale by which what vanishes is shown; floor and error are divided by it alike.
TERMS = 2.0**-21


SHARE = 2.0**-7
"""The largest limit, over a tensor's own size, with which it is still judged; what could be wrong by more and yet pass
is undecided. Of 40 faults of trainings that were injected into a small network, 38 leave an error of 2.7e-2 or more in
the row where they are largest: this is a third of it. The two others (1e-6 in a clip, a biased variance) leave 2.0e-6
and 3.6e-5, in rows whose limit is 1e-12. In float64 no limit of GhostNet, ResNet, RegNet, DeiT or DLA was above
6e-6."""

LONE = 4
"""Numbers in a gradient, at most, of which chance may make all 0 where they vanish: the last additions of a sum work on
multiples of a unit in the last place, so that terms that cancel leave exactly 0 in a good part of all cases."""
DRAWS = 3
"""Further runs, with weights moved by units in the last place, that tell what rounding does. In float32 to such a
gradient: Of the 20 scalars in HGNetV2 whose gradient
vanishes 25 of 620 runs made exactly 0 (measured); all four runs do so once in 400,000 times."""


class Noise(NamedTuple):
    """What the reference's own float32 does to a tensor: the largest error, and the tensor's largest magnitude."""

    error: float
    scale: float

    @property
    def relative(self) -> float:
        """The error over the tensor's own size."""
        return self.error / self.scale if self.scale else (np.inf if self.error else 0.0)


NOTHING = Noise(0.0, 0.0)
"""What is granted to a tensor that was not measured."""


class RoundedRun(Store):
    """What the reference's second run, in float32 say, puts here is measured against its first and not kept.

    The same module on the same inputs records the same tensors in the same order: the nth array of one run is the nth
    of the other, and ``noise[n]`` what separates them. A module that does otherwise in float32 falls out of step.
    """

    keeps = False

    def __init__(self, exact: Store):
        super().__init__()
        self.noise: list[Noise] = []
        self._exact = exact

    def put(self, array: np.ndarray, like: Ref | None = None) -> Ref:
        """Measure ``array`` and let it go."""
        ref = Ref(len(self.refs), array.shape, array.dtype.str)
        self.refs.append(ref)
        known = ref.index < len(self._exact.refs)
        self.noise.append(noise_of(self._exact.get(self._exact.refs[ref.index]), array) if known else NOTHING)
        return ref

    @property
    def in_step(self) -> bool:
        """Whether both runs stored arrays of the same shapes in the same order, after the second has ended."""
        return [ref.shape for ref in self.refs] == [ref.shape for ref in self._exact.refs]


@dataclass(frozen=True)
class NoiseFloor:
    """Relative error that rounding alone explains in ``dtype``; ``noise`` is the reference's own in float32.

    ``leaks`` is what constants that Paddle keeps in float32 do to the reference's gradients, and ``own`` what rounding
    in ``dtype`` itself does to its tensors, where these were measured. All go by the index of the stored tensor.
    """

    dtype: str
    noise: Mapping[int, Noise]
    leaks: Mapping[int, Noise] = field(default_factory=dict)
    own: Mapping[int, Noise] = field(default_factory=dict)

    def of(self, ref: Ref) -> float:
        """The floor of one tensor; at least the unit roundoff, where the reference happens to be exact."""
        scale = 2.0 ** (BITS["float32"] - BITS[self.dtype])
        error = TERMS if self.vanishes(ref) else self._of(ref).relative
        return max(error * scale, 2.0 ** -BITS[self.dtype])

    def allowed(self, ref: Ref) -> float:
        """The largest relative error that is still taken for rounding."""
        return MARGIN[self.dtype] * self.of(ref) + self._own(ref)

    def undecided(self, ref: Ref) -> str:
        """Why nothing can be held against any value of a tensor, if so."""
        share = self._own(ref)
        return f"rounding in {self.dtype} may reach {share:.0e} of its size" if share > SHARE else ""

    def _own(self, ref: Ref) -> float:
        # nothing is inferred from another type, so what is allowed is what float32 is allowed of its own floor
        own, scale = self.own.get(ref.index, NOTHING).error, self._scale(ref)
        return MARGIN["float32"] * own / scale if own and scale else 0.0

    def _scale(self, ref: Ref) -> float:
        return self._of(ref).error / TERMS if self.vanishes(ref) else self._of(ref).scale

    def allowed_backward(self, ref: Ref) -> float:
        """The same of a gradient, into which Paddle's constants may have leaked."""
        leak, scale = self.leaks.get(ref.index, NOTHING).error, self._scale(ref)
        return self.allowed(ref) + (min(LEAKS * leak / scale, MOST_LEAKED) if leak and scale else 0.0)

    def limits(self, ref: Ref) -> tuple[float, float]:
        """The floor of one tensor and what is allowed."""
        return self.of(ref), self.allowed(ref)

    def scaled(self, found: Difference, ref: Ref) -> Difference:
        """What was measured, relative to the scale by which this tensor is judged.

        Of a tensor that vanishes that is the size of the terms that it is the sum of. Rounding tells it: in float32
        their sum is off by a few units in the last place of them (``TERMS``), whatever is left of it. So a gradient
        that is zero in theory, of a bias in front of a normalisation, is judged by what it is the sum of, and no limit
        comes near to 1.
        """
        return replace(found, relative=found.max_abs / self._scale(ref)) if self.vanishes(ref) else found

    def vanishes(self, ref: Ref) -> bool:
        """Whether the tensor is nothing but rounding."""
        return self._of(ref).relative > VANISHING

    def _of(self, ref: Ref) -> Noise:
        noise = self.noise.get(ref.index, NOTHING)
        # where the run in float32 left the range of numbers nothing was measured: the largest error elsewhere serves
        return noise if np.isfinite(noise.error) else Noise(self._largest * noise.scale, noise.scale)

    @cached_property
    def _largest(self) -> float:
        """Of the tensors that do not vanish: the error of one that does says how small it is, not how it is rounded."""
        return max((noise.relative for noise in self.noise.values() if noise.relative <= VANISHING), default=0.0)


def credible(tape: Tape, noise: Mapping[int, Noise]) -> dict[int, Noise]:
    """``noise``, of which none says that a tensor vanishes that does not: those are as if a third bit were left.

    What vanishes is small beside what was recorded with it, values beside values and gradients beside gradients. An
    error that was edited, or that a float32 in disorder has left, would otherwise explain any difference in float64; a
    port in float32 may be in the same disorder.
    """
    result = dict(noise)
    values = [ref for record in tape for ref in record.output_refs()]
    for refs in (values, gradients_of(tape)):
        known = {ref.index: noise[ref.index] for ref in refs if ref.index in noise}
        largest = max((found.scale for found in known.values()), default=0.0)
        for index, found in known.items():
            if found.relative > VANISHING and CANCELLED * largest < found.error < np.inf:
                result[index] = Noise(VANISHING * found.scale, found.scale)
    return result


def gradients_of(tape: Tape) -> list[Ref]:
    """All gradients that ``tape`` holds."""
    slots = (slot for record in tape for slot in (*record.output_grads, *record.input_grads))
    return [*tape.param_grads.values(), *(slot.ref for slot in slots if slot is not None and slot.ref is not None)]


class ReferenceRun(Protocol):
    """Runs the reference in ``dtype``, its weights larger by ``nudge`` units in the last place."""

    def __call__(self, dtype: str, store: Store, nudge: int = 0) -> Tape: ...


def run_in_both(run: ReferenceRun, budget: Budget) -> tuple[Tape, dict[int, Noise]]:
    """The reference's tape in float64, and what float32 does to it by the index of the tensor."""
    tape = run("float64", Store(budget))
    rounded = RoundedRun(tape.store)
    run("float32", rounded)
    if not rounded.in_step:
        return tape, measure_noise(tape, run("float32", Store(budget)))
    noise = rounded.noise
    gradients = [ref for ref in tape.param_grads.values() if np.prod(ref.shape) <= LONE]
    lone = [ref.index for ref in gradients if noise[ref.index].relative > VANISHING or not noise[ref.index].scale]
    for nudge in range(1, DRAWS + 1) if lone else ():
        again = RoundedRun(tape.store)
        run("float32", again, nudge)
        for n in lone if again.in_step else ():
            noise[n] = max(noise[n], again.noise[n])
    return tape, dict(enumerate(noise))


def measure_leaks(runs: Iterable[Callable[[Store], Tape]], tape: Tape, budget: Budget) -> dict[int, Noise]:
    """How far the gradients of ``runs``, each in float64 and with one other constant, are from those of ``tape``.

    The errors of all runs add up: in one with all constants one may undo what another does.
    """
    total: dict[int, Noise] = {}
    for run in runs:
        noise = _moved(run, tape, budget)
        for index in (ref.index for ref in gradients_of(tape)):
            total[index] = added(total.get(index, NOTHING), noise.get(index, NOTHING))
    return total


def measure_own(run: ReferenceRun, tape: Tape, budget: Budget) -> dict[int, Noise]:
    """What rounding in float64 does to the tensors of ``tape``: the largest of ``DRAWS`` runs that round otherwise.

    What float32 does tells it too, at 2**-29 of the size, but where float32 goes out of bounds: a sigmoid of values
    whose float32 error is above 1 is off by 1 at most, and by 1 it is off in float32 alone.
    """
    found: dict[int, Noise] = {}
    for nudge in range(1, DRAWS + 1):
        for index, noise in _moved(partial(run, "float64", nudge=nudge), tape, budget).items():
            found[index] = max(found.get(index, NOTHING), noise)
    return found


def _moved(run: Callable[[Store], Tape], tape: Tape, budget: Budget) -> dict[int, Noise]:
    """How far a further run of the reference in float64 is from its first, whose ``tape`` it is."""
    moved = RoundedRun(tape.store)
    run(moved)
    return dict(enumerate(moved.noise)) if moved.in_step else measure_noise(tape, run(Store(budget)))


def added(one: Noise, other: Noise) -> Noise:
    """Both errors of one tensor."""
    return Noise(one.error + other.error, max(one.scale, other.scale))


def measure_noise(exact: Tape, rounded: Tape) -> dict[int, Noise]:
    """What float32 does in a run that was kept, record by record; what only one of them has is granted nothing."""
    found: dict[int, Noise] = {}
    others = rounded.by_key()
    for record in exact:
        other = others.get(record.key, record)
        pairs = [*zip(record.output_refs(), other.output_refs())]
        for slot, twin in zip([*record.output_grads, *record.input_grads], [*other.output_grads, *other.input_grads]):
            pairs += [(slot.ref, twin.ref)] if slot and twin and slot.ref and twin.ref else []
        for ref, twin in pairs if other is not record else ():
            found[ref.index] = noise_of(exact.get(ref), rounded.get(twin))
    for name in exact.param_grads.keys() & rounded.param_grads.keys():
        ref = exact.param_grads[name]
        found[ref.index] = noise_of(exact.get(ref), rounded.get(rounded.param_grads[name]))
    return found


def noise_of(exact: np.ndarray, rounded: np.ndarray) -> Noise:
    """What separates ``rounded`` from ``exact``."""
    found = compare(exact, rounded)
    return Noise(found.max_abs, found.scale)
