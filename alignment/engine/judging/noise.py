"""The noise floor: the difference that rounding alone explains, measured on the reference. No framework.

The reference runs in float64 and in float32. Their difference at a tensor is the float32 rounding up to that tensor.
Rounding is proportional to the unit roundoff, so in float64 the same computation rounds 2**-29 as much (24 against 53
bits of significand). ``limits`` decides how much of it is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from alignment.engine.judging.error import compare
from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import Tape

# A tensor that loses its third bit to float32 is nothing but rounding: it is zero in theory, like the gradient of a
# bias in front of a normalisation by the batch's own statistics.
VANISHING = 2.0**-3

LONE = 4
"""The largest number of elements of a vanishing gradient that may all be exactly 0 by chance.

The last additions of a sum work on multiples of a unit in the last place, so that cancelling terms often leave exactly
0.
"""
DRAWS = 3
"""The number of further runs, with weights moved by units in the last place, that measure rounding.

Of the 20 scalars in HGNetV2 whose gradient vanishes, 25 of 620 float32 runs gave exactly 0 (measured); all four runs do
so once in 400,000 times.
"""


class Noise(NamedTuple):
    """The reference's float32 error of a tensor: the largest error, and the tensor's largest magnitude."""

    error: float
    scale: float

    @property
    def relative(self) -> float:
        """The error relative to the tensor's largest magnitude."""
        return self.error / self.scale if self.scale else (np.inf if self.error else 0.0)


NOTHING = Noise(0.0, 0.0)
"""The noise of a tensor that was not measured."""


class RoundedRun(Store):
    """A store that measures the arrays of the reference's second run against its first and does not keep them.

    The same module on the same inputs records the same tensors in the same order: the nth array of one run is the nth
    of the other, and ``noise[n]`` is their difference. A module that behaves differently in float32 falls out of step.
    """

    keeps = False

    def __init__(self, exact: Store):
        super().__init__()
        self.noise: list[Noise] = []
        self._exact = exact

    def put(self, array: np.ndarray, like: Ref | None = None) -> Ref:
        """Measure ``array`` and discard it."""
        ref = Ref(len(self.refs), array.shape, array.dtype.str)
        self.refs.append(ref)
        known = ref.index < len(self._exact.refs)
        self.noise.append(noise_of(self._exact.get(self._exact.refs[ref.index]), array) if known else NOTHING)
        return ref

    @property
    def in_step(self) -> bool:
        """Whether both runs, once ended, have stored arrays of the same shapes in the same order."""
        return [ref.shape for ref in self.refs] == [ref.shape for ref in self._exact.refs]


def gradients_of(tape: Tape) -> list[Ref]:
    """Return all gradients on ``tape``."""
    slots = (slot for record in tape for slot in (*record.output_grads, *record.input_grads))
    return [*tape.param_grads.values(), *(slot.ref for slot in slots if slot is not None and slot.ref is not None)]


class ReferenceRun(Protocol):
    """A function that runs the reference in ``dtype``, with weights larger by ``nudge`` units in the last place."""

    def __call__(self, dtype: str, store: Store, nudge: int = 0) -> Tape: ...


def run_in_both(run: ReferenceRun, budget: Budget) -> tuple[Tape, dict[int, Noise]]:
    """Return the reference's float64 tape, and its float32 errors by the index of the tensor."""
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
    """Measure the change of ``tape``'s gradients in ``runs``, each in float64 with one constant replaced.

    The errors of all runs are added: in one run with all constants, their changes could cancel.
    """
    total: dict[int, Noise] = {}
    for run in runs:
        noise = _moved(run, tape, budget)
        for index in (ref.index for ref in gradients_of(tape)):
            total[index] = added(total.get(index, NOTHING), noise.get(index, NOTHING))
    return total


def measure_own(run: ReferenceRun, tape: Tape, budget: Budget) -> dict[int, Noise]:
    """Measure float64 rounding in the tensors of ``tape``: the largest of ``DRAWS`` runs that round differently.

    The float32 error times 2**-29 measures it too, except where float32 saturates: a sigmoid of values whose float32
    error is above 1 is off by 1 at most, and only float32 is off by 1.
    """
    found: dict[int, Noise] = {}
    for nudge in range(1, DRAWS + 1):
        for index, noise in _moved(partial(run, "float64", nudge=nudge), tape, budget).items():
            found[index] = max(found.get(index, NOTHING), noise)
    return found


def _moved(run: Callable[[Store], Tape], tape: Tape, budget: Budget) -> dict[int, Noise]:
    """Measure the difference of a further float64 run of the reference from its first, ``tape``."""
    moved = RoundedRun(tape.store)
    run(moved)
    return dict(enumerate(moved.noise)) if moved.in_step else measure_noise(tape, run(Store(budget)))


def added(one: Noise, other: Noise) -> Noise:
    """Add two errors of one tensor."""
    return Noise(one.error + other.error, max(one.scale, other.scale))


def measure_noise(exact: Tape, rounded: Tape) -> dict[int, Noise]:
    """Measure float32 errors in a run that was kept, record by record; what only one run has gets no allowance."""
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
    """Return the noise of ``rounded`` relative to ``exact``."""
    found = compare(exact, rounded)
    return Noise(found.max_abs, found.scale)
