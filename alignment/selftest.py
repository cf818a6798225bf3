"""Make known mistakes in a correct port, and see which of them are found.

Usage::

    python alignment/selftest.py
    python alignment/selftest.py --model dla34 --fault bn_epsilon_1e-3 root_concat_permuted
    python alignment/selftest.py --clean --model all --seeds 3
    python alignment/selftest.py --pair my_package.my_module:my_pair

First each model is compared as it is, which must raise no alarm. Then every fault of ``alignment.faults.catalogue`` is
made and looked for, with the weights of a fresh model and with BatchNorm as training leaves it. ``--clean`` makes
no fault.

``--pair`` tests the comparison on a port of your own, of any structure, with the faults that apply to it. The function
returns the reference, its port with the same weights, and inputs as ``align`` takes them::

    def my_pair():
        reference, port = torch_model(), paddle_model()
        inputs = numpy.random.RandomState(0).standard_normal((2, 3, 64, 64))
        alignment.transfer(reference, port, inputs)
        return reference, port, inputs

A fault that shows in training mode applies where the port is aligned in that mode.

Exit codes: 0 every fault is found with the right layer and kind, and nine of ten causes are right, or, in a pair, every
fault is found and nine of ten in the right layer; 1 not; 2 usage.
"""

from __future__ import annotations

import argparse
import sys
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
from alignment.faults.catalogue import ALL_FAULTS, FAULTS, by_name
from alignment.faults.fault import Fault, injected
from alignment.faults.operations import seen
from alignment.faults.targets import NotApplicable
from alignment.pairs import build_pair, seeded_source
from convert.conversion import convert_source
from paddle_dla.command_parser import CommandParser
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.errors import UserError, WrongValue
from paddle_dla.models.registry import import_named, users_code
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.options import positive
from paddle_dla.terminal import run_command

MODELS = ("dla34", "dla46x_c", "dla60", "dla60_res2net")
SHAPE = (2, 3, 64, 64)  # B, C, H, W: small, and more than one value per channel at every level
CAUSES = 0.9
"""The share of causes that must be right."""
LAYERS = 0.9
"""The share of faults in a pair that must be found in the right layer."""
SAME = 1e-10
"""Results of one model with a fault and without, in float64, that are no farther apart are the same: a change of a few
parts in 1e8 is cancelled by a normalisation behind it but for the share of its epsilon."""
Progress = Callable[[str], None]
AnyPair = tuple[torch.nn.Module, paddle.nn.Layer, Any]


@dataclass(frozen=True)
class Outcome:
    """What became of one fault in one model; ``note`` says why where it could not be made."""

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
        """Found, in the right layer and as the right kind of fault."""
        return self.found and self.layer and self.kind


@dataclass(frozen=True)
class Clean:
    """What was said of a correct port; ``is_due`` tells whether it must be aligned in this mode."""

    passed: bool
    verdict: str
    is_due: bool = True

    @property
    def is_alarm(self) -> bool:
        """Whether a correct port was said to differ."""
        return self.is_due and not self.passed


class Bench:
    """One pair of models, the references' runs of which are kept from one fault to the next."""

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
        """The port as it is now against the reference."""
        return align(self.reference, self.port, self.inputs, mode=mode, reference=self.references[mode])

    def clean(self, mode: str) -> Result:
        """The comparison of the port as it is without a fault."""
        if mode not in self.cleans:
            self.cleans[mode] = self.compare(mode)
        return self.cleans[mode]

    def computed(self) -> list[np.ndarray]:
        """What the port returns in float64, and the gradient of each parameter."""
        with in_type(self.port, "float64"):
            tape = capture(self.port, self.inputs, backward=lambda output: in_random_directions(output, 0))
        last = [record for record in tape if record.path == ROOT][-1]
        return [*tape.outputs(last), *(tape.get(ref) for _, ref in sorted(tape.param_grads.items()))]

    def is_as_before(self, mode: str) -> bool:
        """Whether the port with a fault in it returns what it returned without, to rounding, and so its gradients."""
        if mode not in self.right:
            return False
        right, now = self.right[mode], self.computed()
        return len(now) == len(right) and all(compare(a, b).relative <= SAME for a, b in zip(right, now))

    def place(self, path: str) -> str:
        """The layer of the port that a report can name: the one at ``path``, or the innermost around it with a twin."""
        paired = {row.twin for row in self.clean("eval").rows if row.direction == FORWARD}
        while path != ROOT and path not in paired:
            path = path.rpartition(".")[0] or ROOT
        return path

    def try_fault(self, fault: Fault) -> Outcome:
        """Make the fault, look for it, take it back."""
        try:
            if not self.clean(fault.mode).passed:
                raise NotApplicable(f"the port is not aligned in {fault.mode} mode")
            with injected(fault, self.port, seen=self.seen) as layers:
                if fault.needs_twin and self.place(layers[0]) != layers[0]:
                    raise NotApplicable("the reference has no such layer")
                result = self.compare(fault.mode)
                if result.passed and self.is_as_before(fault.mode):
                    raise NotApplicable("what follows makes up for it: the model computes the same")
                return judged(self, fault, layers, result)
        except NotApplicable as reason:
            return Outcome(self.name, self.weights, fault.name, False, note=str(reason))


class DlaBench(Bench):
    """A DLA of timm beside this project's, seeded; ``trained`` gives BatchNorm weights as training leaves them."""

    due = ("eval", "train")

    def __init__(self, name: str, seed: int, trained: bool):
        source = seeded_source(name, seed, num_classes=10, randomise_batch_norm=trained)
        pair = build_pair(source, convert_source(source, name, num_classes=10))
        inputs = np.random.RandomState(seed).standard_normal(SHAPE)
        weights = f"{'trained-like' if trained else 'random'} {seed}"
        super().__init__(name, weights, (pair.torch_model, pair.paddle_model, inputs), FAULTS)


def pair_bench(place: str) -> Bench:
    """The pair that a function returns, given as ``package.module:function``.

    Modules are looked for in the current folder, too. Raises ``ModelError`` where it is not found, raises anything or
    ends the program, and where its port does; ``WrongValue`` where it returns something else.
    """
    function = import_named(place)[1]
    if not callable(function):
        raise WrongValue(f"{place} is a {type(function).__name__}, not a function that returns a pair")
    with users_code(place):
        pair = function()
    try:
        reference, port, inputs = pair
        refuse_swapped(reference, port)
    except (TypeError, ValueError) as error:
        raise WrongValue(f"{place} returns no torch module, Paddle layer and inputs: {error}") from error
    with users_code(f"the port of {place}"):
        return Bench(place.partition(":")[2], "as given", (reference, port, inputs))


def judged(bench: Bench, fault: Fault, layers: Sequence[str], result: Result) -> Outcome:
    """Whether ``result`` reports ``fault`` in ``layers``, and nothing else."""
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
    """Every model with every kind of weights, one after the other."""
    for name in models:
        for seed in range(seeds):
            for trained in (False, True):
                yield DlaBench(name, seed, trained)


def selftest(
    benches: Iterable[Bench], faults: Sequence[Fault] | None, progress: Progress
) -> tuple[list[Clean], list[Outcome]]:
    """All pairs as they are, in both modes, and with every fault: ``faults``, or those of each bench."""
    cleans, outcomes = [], []
    for bench in benches:
        for mode in bench.references:
            result = bench.clean(mode)
            words = f"{bench.name}, {bench.weights}, no fault, {mode}: {result.verdict()}"
            cleans.append(Clean(result.passed, words, mode in bench.due))
            progress(words)
        made = bench.faults if faults is None else faults
        for number, fault in enumerate(made, 1):
            started = time.perf_counter()
            outcomes.append(bench.try_fault(fault))
            seconds = time.perf_counter() - started
            progress(f"[{number}/{len(made)}] {line(outcomes[-1])} ({seconds:.1f} s)")
    return cleans, outcomes


def line(outcome: Outcome) -> str:
    """One outcome in words."""
    place = f"{outcome.model}, {outcome.weights}, {outcome.fault}"
    if not outcome.applicable:
        return f"{place}: not applicable: {outcome.note}"
    marks = ((name, getattr(outcome, name)) for name in ("found", "layer", "kind", "cause"))
    words = ", ".join(name if right else f"{name.upper()} WRONG" for name, right in marks)
    return f"{place}: {words}" + ("" if outcome.passed and outcome.cause else f"\n    reported: {outcome.note}")


def totals(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One line for each model, and one for all."""
    models = [*dict.fromkeys(outcome.model for outcome in outcomes)]
    for name in [*models, "all"] if len(models) > 1 else models:
        of_model = [outcome for outcome in outcomes if name in (outcome.model, "all")]
        made = [outcome for outcome in of_model if outcome.applicable]
        counts = (sum(getattr(o, field) for o in made) for field in ("found", "layer", "kind", "cause"))
        found, layer, kind, cause = counts
        yield (
            f"{name:15} {len(made)} faults: {found} found, {layer} in the right layer, {kind} of the right kind, "
            f"{cause} with the right cause; {len(of_model) - len(made)} not applicable"
        )


def passed(cleans: Sequence[Clean], outcomes: Sequence[Outcome]) -> bool:
    """No false alarm, every fault found in the right layer as the right kind, and enough causes right."""
    made = [outcome for outcome in outcomes if outcome.applicable]
    right = sum(outcome.cause for outcome in made)
    return not any(c.is_alarm for c in cleans) and all(o.passed for o in made) and right >= CAUSES * len(made)


def pairs_passed(cleans: Sequence[Clean], outcomes: Sequence[Outcome]) -> bool:
    """No false alarm, every fault found, enough of them in the right layer."""
    made = [outcome for outcome in outcomes if outcome.applicable]
    placed = sum(outcome.layer for outcome in made)
    return not any(c.is_alarm for c in cleans) and all(o.found for o in made) and placed >= LAYERS * len(made)


def _parser() -> argparse.ArgumentParser:
    usage = CommandParser("selftest", __doc__)
    usage.add_argument("--model", nargs="+", help=f"timm's names, or all (default: {' '.join(MODELS)})")
    usage.add_argument("--pair", nargs="+", metavar="MODULE:FUNCTION", help="functions that return ports of your own")
    usage.add_argument("--fault", nargs="+", metavar="NAME", help="of alignment.faults.catalogue (default: all)")
    usage.add_argument("--seeds", type=positive, default=1, help="how many sets of weights of each kind (default 1)")
    usage.add_argument("--clean", action="store_true", help="correct ports only: is there a false alarm?")
    return usage


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = _parser()
    args = usage.parse_args(argv)
    if args.clean and args.fault:
        usage.error("--clean makes no fault; leave out --fault")
    if args.pair and args.model:
        usage.error("--model and --pair exclude each other")
    use_vector_kernels()
    try:
        faults = [*map(by_name, args.fault)] if args.fault else [] if args.clean else None
        names = args.model or MODELS
        models = [*VARIANTS] if names == ["all"] else [resolve_name(name) for name in names]
        tested = map(pair_bench, args.pair) if args.pair else benches(models, args.seeds)
        cleans, outcomes = selftest(tested, faults, lambda text: print(text, file=sys.stderr, flush=True))
    except (KeyError, UserError) as error:
        usage.error(str(error.args[0]))
    wrong = [outcome for outcome in outcomes if outcome.applicable and not (outcome.passed and outcome.cause)]
    alarms = [clean.verdict for clean in cleans if clean.is_alarm]
    print("\n".join([*alarms, *map(line, wrong)]))
    print(f"{'no fault':15} {len(cleans)} comparisons: {len(alarms)} false alarms")
    print("\n".join(totals(outcomes)))
    return 0 if (pairs_passed if args.pair else passed)(cleans, outcomes) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
