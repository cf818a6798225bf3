"""Why a training departs: each part held against its own inputs, as they were recorded on either side. numpy only.

A schedule, a clip, an optimizer and an average are each judged by what they made of what they were given in their own
run, so that what one gets wrong is not laid at the next one's door. Only the loss, the gradients and the statistics of
BatchNorm need a step at which both runs still hold the same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.explaining.causes import UNEXPLAINED, state_cause
from alignment.engine.explaining.optimizer_rules import SAME, differences, rule_of
from alignment.engine.explaining.training_parts import average_cause, clip_cause, loss_cause
from alignment.engine.judging.error import compare
from alignment.engine.judging.noise import BITS, MARGIN
from alignment.engine.records.layout import laid_out
from alignment.engine.records.run import (
    BUFFER,
    FIRST,
    GRADIENT,
    LOSS,
    MOMENTS,
    OUTPUT,
    PARAMETER,
    RATE,
    Run,
    Step,
)
from alignment.engine.result import COMPUTATION, CONFIG, STATE, WEIGHTS, Culprit, Row

# Replayed on the same gradients both optimizers do the same few operations on each element; each step adds that many
# roundings to what it starts from.
OPERATIONS = 4


@dataclass(frozen=True)
class Suspect:
    """Where a parameter is first updated otherwise than the reference's optimizer does with the same gradients."""

    number: int
    relative: float


def find_suspects(port: Run, replayed: Iterable[Step], dtype: str) -> dict[str, Suspect]:
    """By parameter; ``replayed``: the reference's optimizer on the port's gradients and rates, step by step."""
    suspects: dict[str, Suspect] = {}
    for number, (step, other) in enumerate(zip(replayed, port.steps)):
        limit = 2.0 ** -BITS[dtype] * (MARGIN[dtype] + OPERATIONS * number)
        for name, expected in step.of(PARAMETER).items():
            theirs = other.get(PARAMETER, name)
            if name in suspects or theirs is None or name not in port.given:
                continue
            relative = compare(expected, laid_out(theirs, expected.shape)).relative
            if not relative <= limit:
                suspects[name] = Suspect(number, relative)
    return suspects


@dataclass
class Evidence:
    """What the causes are drawn from. ``suspects``: as ``find_suspects`` returns them.

    ``twins``: names in Paddle by names in torch; ``momenta``: of BatchNorm by layer, in torch's convention;
    ``clip_groups``: parameters that the port's optimizer clips together.
    """

    reference: Run
    port: Run
    suspects: Mapping[str, Suspect]
    rows: Sequence[Row]
    dtype: str
    twins: Mapping[str, str]
    momenta: Mapping[str, float]
    clip_groups: Sequence[Sequence[str]] = ()
    _bad: dict[tuple[int, str], list[Row]] = field(init=False, repr=False)

    def __post_init__(self):
        self._bad = {}
        for row in self.rows:
            if not row.aligned:
                self._bad.setdefault((row.depth, row.kind), []).append(row)

    def bad(self, number: int, kind: str) -> list[Row]:
        """The rows of one step and kind that differ."""
        return self._bad.get((number, kind), [])

    def culprit(self, layer: str, kind: str, cause: str, evidence: Iterable[str] = ()) -> Culprit:
        """A culprit whose twin is looked up."""
        return Culprit(layer, self.twins.get(layer, layer), kind, cause, tuple(evidence))


def find_culprits(found: Evidence) -> list[Culprit]:
    """All that is at fault itself, in the order in which one quantity makes the next."""
    different = [*_start(found)]
    culprits = [*different, *_schedule(found)]
    if not different:
        culprits += _model(found)
    culprits += [*_clip(found), *_optimizer(found)]
    if not different:
        culprits += _statistics(found)
    culprits += _average(found)
    first = next((row for row in found.rows if not row.aligned), None)
    if first and not culprits:
        culprits.append(found.culprit(first.layer, COMPUTATION, UNEXPLAINED, [line(first)]))
    return culprits


def line(row: Row) -> str:
    """One row in words."""
    return f"{row.direction} of {row.layer}: {row.note or f'relative error {row.relative:.1e}'}"


def _start(found: Evidence) -> Iterator[Culprit]:
    rows = [row for kind in (PARAMETER, BUFFER) for row in found.bad(0, kind)]
    if rows:
        others = f", as {len(rows) - 1} others do" if len(rows) > 1 else ""
        yield found.culprit(rows[0].layer, WEIGHTS, f"differs before the first step{others}", map(line, rows))


# --- learning rate --------------------------------------------------------------------------------------------------


def _schedule(found: Evidence) -> Iterator[Culprit]:
    numbers = range(1, len(found.reference) + 1)
    if not any(found.bad(number, RATE) for number in numbers):
        return
    ours, theirs = found.reference.steps[1:], found.port.steps[1:]
    causes: dict[tuple[str, str], list[str]] = {}
    shared = [name for name in ours[0].rates if name in theirs[0].rates]
    for name in shared:
        a, b = (np.array([step.rates.get(name, np.nan) for step in steps]) for steps in (ours, theirs))
        wrong = np.abs(a - b) > SAME * np.abs(a)
        if wrong.any():
            k = int(np.argmax(wrong))
            shown = f"step {k + 1}: learning rate {b[k]:.9g} instead of {a[k]:.9g}"
            causes.setdefault((_rate_cause(a, b), shown), []).append(name)
    for (cause, shown), names in causes.items():
        layer = "(schedule)" if len(names) == len(shared) else names[0]
        yield found.culprit(layer, CONFIG, cause, [shown, _named(names, shared)])


def _rate_cause(a: np.ndarray, b: np.ndarray) -> str:
    """``a`` and ``b``: the rates of all steps, of the reference and of the port."""

    def same(x: np.ndarray, y: np.ndarray) -> bool:
        return len(x) > 1 and bool(np.all(np.abs(x - y) <= SAME * np.abs(x)))

    if np.ptp(a) and same(a[1:], b[:-1]):
        return "the learning rate of step k is that of step k + 1 (one step ahead)"
    if np.ptp(a) and same(a[:-1], b[1:]):
        return "the learning rate of step k is that of step k - 1 (one step behind)"
    if np.ptp(a) and not np.ptp(b):
        return f"the learning rate stays {b[0]:.9g}: the schedule is never stepped"
    if np.all(a) and np.ptp(b / a) <= SAME * abs(b[0] / a[0]):
        return f"the learning rate is {b[0] / a[0]:.6g} times the reference's"
    return "another schedule of the learning rate"


# --- loss and gradients ---------------------------------------------------------------------------------------------


def _model(found: Evidence) -> Iterator[Culprit]:
    """The model, the loss and the backward pass: at the first step, at which both hold the same weights."""
    advice = "before any training: align tells the layer"
    if rows := found.bad(1, OUTPUT):
        yield found.culprit(rows[0].layer, COMPUTATION, f"the outputs differ {advice}", map(line, rows))
    elif rows := found.bad(1, LOSS):
        yield found.culprit(rows[0].layer, COMPUTATION, loss_cause(found.reference, found.port), map(line, rows))
    elif rows := found.bad(1, GRADIENT):
        cause = _common_factor(found) or f"the gradients differ {advice}"
        missing = [row for row in rows if row.note]
        if len(missing) == len(rows):
            for row in rows:
                yield found.culprit(row.layer, COMPUTATION, _no_gradient(found, row.layer), [line(row)])
        else:
            yield found.culprit(rows[0].layer, COMPUTATION, cause, map(line, rows[:1]))
    else:
        yield from _accumulated(found)


def _no_gradient(found: Evidence, name: str) -> str:
    frozen = name in found.port.frozen and name not in found.reference.frozen
    return "never updated: it is set not to be trained (stop_gradient)" if frozen else "no gradient arrives"


def _common_factor(found: Evidence) -> str:
    a, b = (run.steps[1].of(GRADIENT) for run in (found.reference, found.port))
    names = [name for name in a if name in b and np.any(a[name])]
    ratios = [float(np.vdot(b[n].reshape(-1), a[n].reshape(-1)) / np.vdot(a[n], a[n])) for n in names]
    fits = all(compare(a[n] * ratios[0], laid_out(b[n], a[n].shape)).relative <= SAME for n in names)
    return f"all gradients are {ratios[0]:.6g} times the reference's, the loss is the same" if names and fits else ""


def _accumulated(found: Evidence) -> Iterator[Culprit]:
    """Gradients of the second step that hold those of the first: both runs still have the same weights there."""
    if len(found.port) < 2 or found.bad(2, LOSS) or not found.bad(2, GRADIENT):
        return
    first, second = found.port.steps[1].of(GRADIENT), found.port.steps[2].of(GRADIENT)
    expected = found.reference.steps[2].of(GRADIENT)
    wrong = [row.layer for row in found.bad(2, GRADIENT)]
    held = [
        name
        for name in wrong
        if name in first
        and name in second
        # the first step's update was exact, so that the sum is, to what a float32 constant puts into gradients
        and compare(laid_out(second[name] - first[name], expected[name].shape), expected[name]).relative <= SAME
    ]
    if held:
        layer = "(optimizer)" if len(held) == len(wrong) else held[0]
        cause = "gradients are not cleared between steps: those of step 2 hold those of step 1"
        yield found.culprit(layer, COMPUTATION, cause, [_named(held, wrong), line(found.bad(2, GRADIENT)[0])])


def _clip(found: Evidence) -> Iterator[Culprit]:
    if cause := clip_cause(found.reference, found.port, found.dtype, found.clip_groups):
        yield found.culprit("(clip)", CONFIG, cause[0], cause[1])


# --- optimizer ------------------------------------------------------------------------------------------------------


def _optimizer(found: Evidence) -> Iterator[Culprit]:
    held = found.reference.given & found.twins.keys()
    for name in sorted(held - found.port.given - found.port.frozen):
        yield found.culprit(name, CONFIG, "never updated: the optimizer was not given it")
    suspects = found.suspects
    causes: dict[str, list[str]] = {}
    for name in suspects:
        causes.setdefault(_rule_cause(found, name), []).append(name)
    for cause, names in causes.items():
        worst = suspects[names[0]]
        shown = f"on the same gradients, step {worst.number}, {names[0]}: relative error {worst.relative:.1e}"
        layer = "(optimizer)" if len(names) == len(held & found.port.given) else names[0]
        yield found.culprit(layer, CONFIG, cause, [_named(names, [*held]), shown])


def _rule_cause(found: Evidence, name: str) -> str:
    last, other = found.reference.steps[-1], found.port.steps[-1]
    if compare(found.port.steps[0].get(PARAMETER, name), other.get(PARAMETER, name)).max_abs == 0.0:
        return "never updated, though the optimizer holds it"
    kept = [step.roles(name) & MOMENTS for step in (last, other)]
    if kept[0] - kept[1] or (FIRST in kept[1]) != (FIRST in kept[0]):
        ours, theirs = (", ".join(sorted(roles)) or "no state" for roles in kept)
        return f"another optimizer: it keeps {theirs} instead of {ours}"
    ours, theirs = rule_of(found.reference, name, "float64"), rule_of(found.port, name, found.dtype)
    if ours and theirs and (words := differences(ours, theirs)):
        return ", ".join(words)
    return UNEXPLAINED


def _named(names: Sequence[str], of: Sequence[str]) -> str:
    return f"{len(names)} of {len(of)} parameters: {', '.join(names)}"


# --- statistics and averages ----------------------------------------------------------------------------------------


def _statistics(found: Evidence) -> Iterator[Culprit]:
    """BatchNorm's statistics after the first step, the input of which is the reference's."""
    rows = [] if found.bad(1, OUTPUT) else found.bad(1, BUFFER)
    layers: dict[str, list[Row]] = {}
    for row in rows:
        layers.setdefault(row.layer.rpartition(".")[0], []).append(row)
    for layer, wrong in layers.items():
        causes = []
        for row in wrong:
            before, expected = (found.reference.steps[n].get(BUFFER, row.layer) for n in (0, 1))
            actual = found.port.steps[1].get(BUFFER, row.layer)
            words = row.note or state_cause(before, expected, actual, found.momenta.get(layer))
            causes.append(f"{row.layer.rpartition('.')[2]} is updated otherwise: {words or UNEXPLAINED}")
        yield found.culprit(layer, STATE, "; ".join(causes), map(line, wrong))


def _average(found: Evidence) -> Iterator[Culprit]:
    if cause := average_cause(found.reference, found.port, found.dtype):
        yield found.culprit("(ema)", CONFIG, cause[0], cause[1])
