"""Explain why a training departs: judge each part by its own recorded inputs. numpy only.

The reference has taken each of the port's steps from the port's own weights, gradients, rates and averages (see
``sides.torch.steps.Follower``), so a row that differs is the fault of the part that computed it, and of no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from alignment.engine.explaining.explain_layer import UNEXPLAINED
from alignment.engine.explaining.optimizer_rules import differences, rule_of
from alignment.engine.explaining.schedules import rate_cause
from alignment.engine.explaining.solving import SAME
from alignment.engine.explaining.statistics import statistic_cause
from alignment.engine.explaining.training_parts import average_cause, clip_cause, loss_cause
from alignment.engine.judging.error import compare
from alignment.engine.pairing.tensors import TensorPairs, Tie
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
    STATE,
    Run,
)
from alignment.engine.result import COMPUTATION, CONFIG, WEIGHTS, WIRING, Culprit, Row
from alignment.engine.result import STATE as STATISTICS

SHOWN = 8
"""The number of parameter names in a line of evidence."""


@dataclass
class Evidence:
    """The data from which causes are derived.

    ``reference``: each step as the reference takes it from the port's weights; ``twins``: names in Paddle by names in
    torch; ``momenta``: of BatchNorm by layer, in torch's convention; ``changed``: tensors without a twin that a side
    has changed without training them; ``clip_groups``: parameters that the port's optimizer clips together.
    """

    reference: Run
    port: Run
    rows: Sequence[Row]
    dtype: str
    twins: Mapping[str, str]
    momenta: Mapping[str, float | None]
    pairs: TensorPairs
    changed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clip_groups: Sequence[Sequence[str]] = ()
    _bad: dict[tuple[int, str], list[Row]] = field(init=False, repr=False)

    def __post_init__(self):
        self._bad = {}
        unequal = self.pairs.unequal()
        for row in self.rows:
            if row.differs and row.layer not in unequal:
                self._bad.setdefault((row.depth, row.kind), []).append(row)

    def bad(self, number: int, kind: str) -> list[Row]:
        """Return the rows of one step and kind that differ, except tensors that are tied on one side only."""
        return self._bad.get((number, kind), [])

    def numbers(self) -> range:
        """The steps that the reference has taken."""
        return range(1, len(self.reference) + 1)

    def first(self, *kinds: str) -> int:
        """Return the first step with a row of these kinds that differs, or 0."""
        return next((n for n in self.numbers() if any(self.bad(n, kind) for kind in kinds)), 0)

    def culprit(self, layer: str, kind: str, cause: str, evidence: Iterable[str] = ()) -> Culprit:
        """Return a culprit; its twin is looked up."""
        return Culprit(layer, self.twins.get(layer, layer), kind, cause, tuple(evidence))


def find_culprits(found: Evidence) -> list[Culprit]:
    """Return all culprits, in the order in which one quantity determines the next."""
    culprits = [*_start(found), *_parameters(found), *_schedule(found)]
    culprits += [*_trained(found), *_model(found), *_clip(found), *_optimizer(found), *_statistics(found)]
    culprits += _statistics_alone(found)
    culprits += _average(found)
    first = next((row for row in found.rows if row.differs), None)
    if first and not culprits:
        culprits.append(found.culprit(first.layer, COMPUTATION, UNEXPLAINED, [line(first)]))
    return culprits


def line(row: Row) -> str:
    """Describe one row."""
    return f"{row.direction} of {row.layer}: {row.note or f'relative error {row.relative:.1e}'}"


# --- weights --------------------------------------------------------------------------------------------------------


def _start(found: Evidence) -> Iterator[Culprit]:
    rows = [row for kind in (PARAMETER, BUFFER) for row in found.bad(0, kind)]
    if rows:
        others = f", as {len(rows) - 1} others do" if len(rows) > 1 else ""
        yield found.culprit(rows[0].layer, WEIGHTS, f"differs before the first step{others}", map(line, rows))


def _parameters(found: Evidence) -> Iterator[Culprit]:
    """Yield culprits for parameters that exist on one side only, and weights that are tied on one side."""
    for tie in found.pairs.ties:
        shown = [f"in torch: {', '.join(tie.reference)}", f"in Paddle: {', '.join(tie.port)}"]
        yield found.culprit(tie.reference[0], WIRING, _tie_words(tie), shown)
    extra = found.pairs.extra
    if all(extra.get(side) for side in ("torch", "Paddle")):
        return  # they may correspond, which is reported with the verdict
    for name in extra.get("torch", ()):
        yield found.culprit(name, WIRING, f"the reference trains {name}, which the port lacks")
    for name in extra.get("Paddle", ()):
        yield found.culprit(name, WIRING, f"the port trains {name}, a parameter that the reference lacks")


def _tie_words(tie: Tie) -> str:
    names = " and ".join(tie.port if tie.tied_in == "torch" else tie.reference)
    other = "Paddle" if tie.tied_in == "torch" else "torch"
    return f"tied in {tie.tied_in} alone: one parameter there, in {other} {names}, which separate with the first step"


def _trained(found: Evidence) -> Iterator[Culprit]:
    """Yield culprits for parameters that are trained on one side only."""
    paired = found.reference.steps[0].of(PARAMETER).keys() & found.pairs.names.keys()
    for name in sorted((found.port.frozen - found.reference.frozen) & paired):
        yield found.culprit(
            name, COMPUTATION, "never updated: it is set not to be trained (stop_gradient) in the port alone"
        )
    for name in sorted((found.reference.frozen - found.port.frozen) & paired):
        yield found.culprit(
            name, COMPUTATION, "frozen in the reference (requires_grad=False), trained in the port: set stop_gradient"
        )


# --- learning rate, loss and gradients ------------------------------------------------------------------------------


def _schedule(found: Evidence) -> Iterator[Culprit]:
    if not found.first(RATE):
        return
    ours, theirs = found.reference.steps[1:], found.port.steps[1:]
    causes: dict[tuple[str, str], list[str]] = {}
    shared = [name for name in ours[0].rates if name in theirs[0].rates]
    for name in shared:
        a, b = (np.array([step.rates.get(name, np.nan) for step in steps]) for steps in (ours, theirs[: len(ours)]))
        wrong = np.abs(a - b) > SAME * np.abs(a)
        if wrong.any():
            k = int(np.argmax(wrong))
            shown = f"step {k + 1}: learning rate {b[k]:.9g} instead of {a[k]:.9g}"
            causes.setdefault((rate_cause(a, b), shown), []).append(name)
    for (cause, shown), names in causes.items():
        layer = "(schedule)" if len(names) == len(shared) else names[0]
        yield found.culprit(layer, CONFIG, cause, [shown, _named(names, shared)])


def _model(found: Evidence) -> Iterator[Culprit]:
    """Yield the model, the loss or the backward pass, at the first step at which one of them differs."""
    number = found.first(OUTPUT, LOSS, GRADIENT)
    if not number or (number > 1 and _kept_on_purpose(found, number)):
        return
    if number > 1 and (held := _accumulated(found, number)):
        yield from held
    elif rows := found.bad(number, OUTPUT):
        yield found.culprit(rows[0].layer, COMPUTATION, _output_words(rows, number), map(line, rows))
    elif rows := found.bad(number, LOSS):
        words = loss_cause(found.reference, found.port, number)
        yield found.culprit(rows[0].layer, COMPUTATION, words, map(line, rows))
    else:
        yield from _gradients(found, number)


def _kept_on_purpose(found: Evidence, number: int) -> bool:
    """Return whether the step before left all parameters with differing gradients unchanged.

    Gradients that add up are then the optimizer's fault.
    """
    rows = found.bad(number, GRADIENT)
    same = not found.bad(number, OUTPUT) and not found.bad(number, LOSS)
    return bool(rows) and same and all(_still(found, number - 1, row.layer) for row in rows)


def _output_words(rows: Sequence[Row], number: int) -> str:
    if any(row.note for row in rows):
        return f"the outputs have another structure: {'; '.join(sorted({_structure(row) for row in rows if row.note}))}"
    if number == 1:
        return "the outputs differ before any training: align tells the layer"
    return f"from step {number} on the outputs differ, though the weights and statistics are the same"


def _structure(row: Row) -> str:
    return f"{row.direction.partition(', ')[2] or 'the output'}: {row.note}"


def _gradients(found: Evidence, number: int) -> Iterator[Culprit]:
    one_sided = found.port.frozen ^ found.reference.frozen
    rows = [row for row in found.bad(number, GRADIENT) if row.layer not in one_sided]
    missing = [row for row in rows if row.note]
    if rows and len(missing) == len(rows):
        for row in rows:
            yield found.culprit(row.layer, COMPUTATION, _arrival(row), [line(row)])
    elif rows:
        when = "before any training" if number == 1 else f"from step {number} on, on the same weights"
        cause = _common_factor(found, number) or f"the gradients differ {when}: align tells the layer"
        yield found.culprit(rows[0].layer, COMPUTATION, cause, map(line, rows[:1]))


def _arrival(row: Row) -> str:
    return "no gradient arrives" if row.note == "no gradient arrived" else "no gradient arrives in the reference"


def _common_factor(found: Evidence, number: int) -> str:
    a, b = (run.steps[number].of(GRADIENT) for run in (found.reference, found.port))
    names = [name for name in a if name in b and np.any(a[name])]
    ratios = [float(np.vdot(b[n].reshape(-1), a[n].reshape(-1)) / np.vdot(a[n], a[n])) for n in names]
    fits = all(compare(a[n] * ratios[0], laid_out(b[n], a[n].shape)).relative <= SAME for n in names)
    if not names or not fits:
        return ""
    times = f"{ratios[0]:.6g}" if abs(ratios[0] - 1) > 1e-5 else f"1 {ratios[0] - 1:+.1e}"
    return f"all gradients are {times} times the reference's, the loss is the same"


def _accumulated(found: Evidence, number: int) -> list[Culprit]:
    """Return culprits for gradients that contain those of the step before."""
    last, now = (found.port.steps[n].of(GRADIENT) for n in (number - 1, number))
    expected = found.reference.steps[number].of(GRADIENT)
    wrong = [row.layer for row in found.bad(number, GRADIENT)]
    held = [
        name
        for name in wrong
        if name in last
        and name in now
        and name in expected
        and not _still(found, number - 1, name)  # else they are kept on purpose
        # the sum is exact, up to float32 constants in the gradients
        and compare(laid_out(now[name] - last[name], expected[name].shape), expected[name]).relative <= SAME
    ]
    if not held:
        return []
    layer = "(optimizer)" if len(held) == len(wrong) else held[0]
    cause = f"gradients are not cleared between steps: those of step {number} hold those of step {number - 1}"
    return [found.culprit(layer, COMPUTATION, cause, [_named(held, wrong), line(found.bad(number, GRADIENT)[0])])]


def _clip(found: Evidence) -> Iterator[Culprit]:
    if cause := clip_cause(found.reference, found.port, found.dtype, found.clip_groups):
        yield found.culprit("(clip)", CONFIG, cause[0], cause[1])


# --- optimizer ------------------------------------------------------------------------------------------------------


def _optimizer(found: Evidence) -> Iterator[Culprit]:
    frozen = found.port.frozen | found.reference.frozen
    held = (found.reference.given & found.pairs.names.keys()) - frozen
    for name in sorted(held - found.port.given):
        yield found.culprit(name, CONFIG, "never updated: the optimizer was not given it")
    for name in sorted((found.port.given & found.pairs.names.keys()) - found.reference.given - frozen):
        yield found.culprit(name, CONFIG, "updated, though the reference's optimizer was not given it")
    suspects = _suspects(found, held & found.port.given)
    causes: dict[str, list[str]] = {}
    for name in suspects:
        causes.setdefault(_rule_cause(found, name), []).append(name)
    for cause, names in causes.items():
        worst = suspects[names[0]]
        shown = f"on the same gradients, {line(worst)}"
        layer = "(optimizer)" if len(names) == len(held & found.port.given) else names[0]
        yield found.culprit(layer, CONFIG, cause, [_named(names, [*held]), shown])


def _suspects(found: Evidence, held: frozenset[str]) -> dict[str, Row]:
    """Return, by parameter, the first row at which its update or state differs from the reference's optimizer."""
    suspects: dict[str, Row] = {}
    for number in found.numbers():
        for row in [*found.bad(number, PARAMETER), *found.bad(number, STATE)]:
            if row.layer in held:
                suspects.setdefault(row.layer, row)
    return suspects


def _rule_cause(found: Evidence, name: str) -> str:
    last, other = found.reference.steps[-1], found.port.steps[len(found.reference)]
    start, end = (step.arrays[PARAMETER, name, ""] for step in (found.port.steps[0], other))
    if compare(start, end).max_abs == 0.0:
        return "never updated, though the optimizer holds it"
    if words := _rarely(found, name):
        return words
    kept = [step.roles(name) & MOMENTS for step in (last, other)]
    if kept[0] - kept[1] or (FIRST in kept[1]) != (FIRST in kept[0]):
        ours, theirs = (", ".join(sorted(roles)) or "no state" for roles in kept)
        return f"another optimizer: it keeps {theirs} instead of {ours}"
    ours, theirs = (rule_of(run, found.port, name, found.dtype) for run in (found.reference, found.port))
    if ours and theirs and (words := differences(ours, theirs)):
        return ", ".join(words)
    return UNEXPLAINED


def _rarely(found: Evidence, name: str) -> str:
    """Describe steps at which the port leaves a parameter unchanged, and the reference does not."""
    still = [number for number in found.numbers() if _still(found, number, name)]
    moving = [str(number) for number in found.numbers() if number not in still]
    if not still:
        return ""
    more = ", ..." if len(moving) > SHOWN else ""
    return f"updated at steps {', '.join(moving[:SHOWN])}{more} alone (gradients accumulated over several steps?)"


def _still(found: Evidence, number: int, name: str) -> bool:
    before, after = (found.port.steps[n].get(PARAMETER, name) for n in (number - 1, number))
    expected = found.reference.steps[number].get(PARAMETER, name)
    if before is None or after is None or expected is None:
        return False
    return np.array_equal(before, after) and not np.array_equal(before, expected)


def _named(names: Sequence[str], of: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} of {len(of)} parameters: {', '.join(names[:SHOWN])}{more}"


# --- statistics and averages ----------------------------------------------------------------------------------------


def _statistics(found: Evidence) -> Iterator[Culprit]:
    """Yield culprits for BatchNorm's statistics, if the model's outputs and the statistics' inputs are right."""
    layers: dict[str, list[Row]] = {}
    for number in found.numbers():
        rows = [] if found.bad(number, OUTPUT) else found.bad(number, BUFFER)
        new: dict[str, list[Row]] = {}
        for row in rows:
            new.setdefault(row.layer.rpartition(".")[0], []).append(row)
        layers = new | layers
    for layer, wrong in layers.items():
        causes = [
            f"{row.layer.rpartition('.')[2]} is updated otherwise: {_statistic_words(found, layer, row)}"
            for row in wrong
        ]
        yield found.culprit(layer, STATISTICS, "; ".join(causes), map(line, wrong))


def _statistics_alone(found: Evidence) -> Iterator[Culprit]:
    """Yield culprits for statistics that exist on one side only."""
    if all(found.changed.get(side) for side in ("torch", "Paddle")):
        return  # they may correspond, which is reported with the verdict
    for side, other in (("torch", "port"), ("Paddle", "reference")):
        for name in found.changed.get(side, ()):
            cause = f"changed in training by {side} alone: the {other} has no such tensor"
            yield found.culprit(name, STATISTICS, cause)


def _statistic_words(found: Evidence, layer: str, row: Row) -> str:
    before, actual = (found.port.steps[n].get(BUFFER, row.layer) for n in (row.depth - 1, row.depth))
    expected = found.reference.steps[row.depth].get(BUFFER, row.layer)
    if row.note or before is None or expected is None or actual is None:
        return row.note or UNEXPLAINED
    if found.momenta.get(layer, 0.0) is None:
        return "the reference averages over all batches so far (momentum=None), the port does not"
    return statistic_cause(before, expected, actual, found.momenta.get(layer), found.dtype) or UNEXPLAINED


def _average(found: Evidence) -> Iterator[Culprit]:
    if cause := average_cause(found.reference, found.port, found.dtype):
        yield found.culprit("(ema)", CONFIG, cause[0], cause[1])
