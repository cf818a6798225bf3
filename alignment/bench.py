"""Inject known faults into a correct port and check that the comparison finds them: the work of ``selftest``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
import torch

from alignment.engine.borrowed import refuse_swapped
from alignment.engine.judging.error import compare
from alignment.engine.records.tape import ROOT
from alignment.engine.result import FORWARD, Result
from alignment.engine.session import Reference, align
from alignment.engine.sides.paddle.borrow import in_type
from alignment.engine.sides.paddle.capture import capture, in_random_directions
from alignment.faults.catalogue import ALL_FAULTS, FAULTS
from alignment.faults.fault import Fault, injected
from alignment.faults.operations import seen
from alignment.faults.targets import NotApplicable
from alignment.pairs import build_pair, seeded_source
from convert.conversion import convert_source
from paddle_dla.errors import WrongValue
from paddle_dla.models.registry import import_named, users_code

SHAPE = (2, 3, 64, 64)  # B, C, H, W: small, and more than one value per channel at every level
CAUSES = 0.9
"""The required share of right causes."""
LAYERS = 0.9
"""The required share of faults of a pair that are found in the right layer."""
SAME = 1e-10
"""The largest relative difference at which float64 results with and without a fault count as the same.

A normalisation behind a change of a few parts in 1e8 cancels it, except for the share of its epsilon.
"""
Progress = Callable[[str], None]
AnyPair = tuple[torch.nn.Module, paddle.nn.Layer, Any]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one fault in one model; ``note`` holds the reason if it could not be injected."""

    model: str
    weights: str
    fault: str
    applicable: bool = True
    found: bool = False
    layer: bool = False
    kind: bool = False
    cause: bool = False
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the fault was found, in the right layer and as the right kind."""
        return self.found and self.layer and self.kind


@dataclass(frozen=True)
class Clean:
    """The verdict on a correct port; ``is_due`` tells whether it must be aligned in this mode."""

    passed: bool
    verdict: str
    is_due: bool = True

    @property
    def is_alarm(self) -> bool:
        """Whether this is a false alarm."""
        return self.is_due and not self.passed


class Bench:
    """One pair of models; the reference's runs are reused for all faults."""

    due = ("eval",)
    """The modes in which the pair must be aligned."""

    def __init__(self, name: str, weights: str, pair: AnyPair, faults: Sequence[Fault] = ALL_FAULTS):
        self.name, self.weights, self.faults = name, weights, faults
        self.reference, self.port, self.inputs = pair
        self.references = {"eval": Reference(), "train": Reference()}
        self.port.eval()
        self.seen = seen(self.port, self.inputs)
        self.cleans: dict[str, Result] = {}
        self.right = {"eval": self.computed()}

    def compare(self, mode: str) -> Result:
        """Compare the port in its current state with the reference."""
        return align(self.reference, self.port, self.inputs, mode=mode, reference=self.references[mode])

    def clean(self, mode: str) -> Result:
        """Return the comparison of the port without a fault."""
        if mode not in self.cleans:
            self.cleans[mode] = self.compare(mode)
        return self.cleans[mode]

    def computed(self) -> list[np.ndarray]:
        """Return the port's float64 outputs and the gradient of each parameter."""
        with in_type(self.port, "float64"):
            tape = capture(self.port, self.inputs, backward=lambda output: in_random_directions(output, 0))
        last = [record for record in tape if record.path == ROOT][-1]
        return [*tape.outputs(last), *(tape.get(ref) for _, ref in sorted(tape.param_grads.items()))]

    def is_as_before(self, mode: str) -> bool:
        """Return whether the port with a fault gives the same outputs and gradients as without it, within rounding."""
        if mode not in self.right:
            return False
        right, now = self.right[mode], self.computed()
        return len(now) == len(right) and all(compare(a, b).relative <= SAME for a, b in zip(right, now))

    def place(self, path: str) -> str:
        """Return the port's layer that a report can name: ``path``, or the innermost paired container around it."""
        paired = {row.twin for row in self.clean("eval").rows if row.direction == FORWARD}
        while path != ROOT and path not in paired:
            path = path.rpartition(".")[0] or ROOT
        return path

    def try_fault(self, fault: Fault) -> Outcome:
        """Inject the fault, compare, and remove the fault."""
        try:
            if not self.clean(fault.mode).passed:
                raise NotApplicable(f"the port is not aligned in {fault.mode} mode")
            with injected(fault, self.port, seen=self.seen) as layers:
                if fault.needs_twin and self.place(layers[0]) != layers[0]:
                    raise NotApplicable("the reference has no such layer")
                result = self.compare(fault.mode)
                if result.passed and self.is_as_before(fault.mode):
                    raise NotApplicable("later layers compensate for it: the model computes the same")
                return judged(self, fault, layers, result)
        except NotApplicable as reason:
            return Outcome(self.name, self.weights, fault.name, False, note=str(reason))


class DlaBench(Bench):
    """A seeded DLA of timm and of this project; ``trained`` gives BatchNorm trained-like weights and statistics."""

    due = ("eval", "train")

    def __init__(self, name: str, seed: int, trained: bool):
        source = seeded_source(name, seed, num_classes=10, randomise_batch_norm=trained)
        pair = build_pair(source, convert_source(source, name, num_classes=10))
        inputs = np.random.RandomState(seed).standard_normal(SHAPE)
        weights = f"{'trained-like' if trained else 'random'} {seed}"
        super().__init__(name, weights, (pair.torch_model, pair.paddle_model, inputs), FAULTS)


def pair_bench(place: str) -> Bench:
    """Return the bench of the pair that a function returns, given as ``package.module:function``.

    Modules are also looked for in the current folder. Raises ``ModelError`` where the function is not found, raises
    anything or ends the program, and where its port does; ``WrongValue`` where it returns something else.
    """
    function = import_named(place)[1]
    if not callable(function):
        raise WrongValue(f"{place} is a {type(function).__name__}, not a function that returns a pair")
    with users_code(place):
        pair: Any = function()
    try:
        reference, port, inputs = pair
        refuse_swapped(reference, port)
    except (TypeError, ValueError) as error:
        raise WrongValue(f"{place} must return (torch module, Paddle layer, inputs): {error}") from error
    with users_code(f"the port of {place}"):
        return Bench(place.partition(":")[2], "as given", (reference, port, inputs))


def judged(bench: Bench, fault: Fault, layers: Sequence[str], result: Result) -> Outcome:
    """Judge whether ``result`` reports ``fault`` in ``layers``, and nothing else."""
    culprits = result.culprits
    reported = "; ".join(f"{c.layer} ({c.kind}): {c.cause}" for c in culprits) or result.verdict()
    return Outcome(
        bench.name,
        bench.weights,
        fault.name,
        found=not result.passed,
        layer={c.twin for c in culprits} in ({*layers}, {*map(bench.place, layers)}),
        kind=bool(culprits) and all(fault.is_kind(c.kind) for c in culprits),
        cause=bool(culprits) and all(fault.cause in c.cause for c in culprits),
        note=f"made in {', '.join(layers)}; {reported}",
    )


def benches(models: Sequence[str], seeds: int) -> Iterator[Bench]:
    """Yield a bench for every model, seed and kind of weights."""
    for name in models:
        for seed in range(seeds):
            for trained in (False, True):
                yield DlaBench(name, seed, trained)


@dataclass(frozen=True)
class Found:
    """The verdicts on correct ports, and the outcome of each fault."""

    cleans: list[Clean]
    outcomes: list[Outcome]

    @property
    def made(self) -> list[Outcome]:
        """The outcomes of the faults that apply."""
        return [outcome for outcome in self.outcomes if outcome.applicable]

    @property
    def alarms(self) -> list[Clean]:
        """The false alarms."""
        return [clean for clean in self.cleans if clean.is_alarm]

    @property
    def passed(self) -> bool:
        """Whether no false alarm was raised, all layers and kinds are right, and enough causes are right."""
        right = sum(outcome.cause for outcome in self.made)
        return not self.alarms and all(o.passed for o in self.made) and right >= CAUSES * len(self.made)

    @property
    def pairs_passed(self) -> bool:
        """Whether no false alarm was raised and all faults were found, enough of them in the right layer."""
        placed = sum(outcome.layer for outcome in self.made)
        return not self.alarms and all(o.found for o in self.made) and placed >= LAYERS * len(self.made)

    def lines(self) -> Iterator[str]:
        """Yield a line for each failure, and the number of faults found, for each model and for all."""
        yield from (clean.verdict for clean in self.alarms)
        yield from (line(outcome) for outcome in self.made if not (outcome.passed and outcome.cause))
        yield f"{'no fault':15} {len(self.cleans)} comparisons: {len(self.alarms)} false alarms"
        models = [*dict.fromkeys(outcome.model for outcome in self.outcomes)]
        for name in models:
            yield total(name, [outcome for outcome in self.outcomes if outcome.model == name])
        if len(models) > 1:
            yield total("all", self.outcomes)


def selftest(benches: Iterable[Bench], faults: Sequence[Fault] | None, progress: Progress) -> Found:
    """Compare all pairs without faults, in both modes, and with every fault: ``faults``, or those of each bench."""
    found = Found([], [])
    for bench in benches:
        for mode in bench.references:
            result = bench.clean(mode)
            words = f"{bench.name}, {bench.weights}, no fault, {mode}: {result.verdict()}"
            found.cleans.append(Clean(result.passed, words, mode in bench.due))
            progress(words)
        made = bench.faults if faults is None else faults
        for number, fault in enumerate(made, 1):
            started = time.perf_counter()
            found.outcomes.append(bench.try_fault(fault))
            seconds = time.perf_counter() - started
            progress(f"[{number}/{len(made)}] {line(found.outcomes[-1])} ({seconds:.1f} s)")
    return found


def line(outcome: Outcome) -> str:
    """Describe one outcome."""
    place = f"{outcome.model}, {outcome.weights}, {outcome.fault}"
    if not outcome.applicable:
        return f"{place}: not applicable: {outcome.note}"
    marks = ((name, getattr(outcome, name)) for name in ("found", "layer", "kind", "cause"))
    words = ", ".join(name if right else f"{name.upper()} WRONG" for name, right in marks)
    return f"{place}: {words}" + ("" if outcome.passed and outcome.cause else f"\n    reported: {outcome.note}")


def total(name: str, outcomes: Sequence[Outcome]) -> str:
    """Summarise the outcomes of a model's faults in one line."""
    made = [outcome for outcome in outcomes if outcome.applicable]
    found, layer, kind, cause = (sum(getattr(o, field) for o in made) for field in ("found", "layer", "kind", "cause"))
    return (
        f"{name:15} {len(made)} faults: {found} found, {layer} in the right layer, {kind} of the right kind, "
        f"{cause} with the right cause; {len(outcomes) - len(made)} not applicable"
    )
