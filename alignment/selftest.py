"""Does ``align`` find the mistakes that it is meant to find? Each is made in a correct port, and looked for.

Usage::

    python alignment/selftest.py
    python alignment/selftest.py --model dla34 --fault bn_epsilon_1e-3 root_concat_permuted
    python alignment/selftest.py --clean --model all --seeds 3

First each model is compared as it is, which must raise no alarm. Then every fault of ``alignment.faults.catalogue`` is
made and looked for, with the weights of a fresh model and with BatchNorm as training leaves it. ``--clean`` makes
no fault.

Exit codes: 0 every fault is found with the right layer and kind, and nine of ten causes are right; 1 not; 2 usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from alignment.engine.result import Result
from alignment.engine.session import Reference, align
from alignment.faults.catalogue import FAULTS, Fault, NotApplicable, by_name, injected
from alignment.pairs import Pair, build_pair, seeded_source
from convert.conversion import convert_source
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.models.variants import VARIANTS, resolve_name
from paddle_dla.terminal import run_command

MODELS = ("dla34", "dla46x_c", "dla60", "dla60_res2net")
SHAPE = (2, 3, 64, 64)  # B, C, H, W: small, and more than one value per channel at every level
CAUSES = 0.9
"""The share of causes that must be right."""
Progress = Callable[[str], None]


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
    """What was said of a correct port."""

    passed: bool
    verdict: str


class Bench:
    """One pair of models, the references' runs of which are kept from one fault to the next."""

    def __init__(self, name: str, seed: int, trained: bool):
        self.name = name
        self.weights = f"{'trained-like' if trained else 'random'} {seed}"
        source = seeded_source(name, seed, num_classes=10, randomise_batch_norm=trained)
        self.pair: Pair = build_pair(source, convert_source(source, name, num_classes=10))
        self.inputs = np.random.RandomState(seed).standard_normal(SHAPE)
        self.references = {"eval": Reference(), "train": Reference()}

    def compare(self, mode: str) -> Result:
        """The port as it is now against the reference."""
        pair = self.pair
        return align(pair.torch_model, pair.paddle_model, self.inputs, mode=mode, reference=self.references[mode])

    def try_fault(self, fault: Fault) -> Outcome:
        """Make the fault, look for it, take it back."""
        try:
            with injected(fault, self.pair.paddle_model) as layers:
                return judged(self, fault, layers, self.compare(fault.mode))
        except NotApplicable as reason:
            return Outcome(self.name, self.weights, fault.name, False, note=str(reason))


def judged(bench: Bench, fault: Fault, layers: Sequence[str], result: Result) -> Outcome:
    """Whether ``result`` reports ``fault`` in ``layers``, and nothing else."""
    culprits = result.culprits
    reported = "; ".join(f"{c.layer} ({c.kind}): {c.cause}" for c in culprits) or result.verdict()
    return Outcome(
        bench.name,
        bench.weights,
        fault.name,
        found=not result.passed,
        layer=sorted(c.layer for c in culprits) == sorted(layers),
        kind=bool(culprits) and all(c.kind == fault.kind for c in culprits),
        cause=bool(culprits) and all(fault.cause in c.cause for c in culprits),
        note=reported,
    )


def benches(models: Sequence[str], seeds: int) -> Iterator[Bench]:
    """Every model with every kind of weights, one after the other."""
    for name in models:
        for seed in range(seeds):
            for trained in (False, True):
                yield Bench(name, seed, trained)


def selftest(
    models: Sequence[str], faults: Sequence[Fault], seeds: int, progress: Progress
) -> tuple[list[Clean], list[Outcome]]:
    """All models as they are, in both modes, and with every fault."""
    cleans, outcomes = [], []
    for bench in benches(models, seeds):
        for mode in bench.references:
            result = bench.compare(mode)
            cleans.append(Clean(result.passed, f"{bench.name}, {bench.weights}, no fault, {mode}: {result.verdict()}"))
            progress(cleans[-1].verdict)
        for number, fault in enumerate(faults, 1):
            started = time.perf_counter()
            outcomes.append(bench.try_fault(fault))
            seconds = time.perf_counter() - started
            progress(f"[{number}/{len(faults)}] {line(outcomes[-1])} ({seconds:.1f} s)")
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
    return all(c.passed for c in cleans) and all(o.passed for o in made) and right >= CAUSES * len(made)


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = argparse.ArgumentParser(prog="selftest", description=__doc__.split("\n")[0])
    usage.add_argument("--model", nargs="+", default=MODELS, help=f"timm's names, or all (default: {' '.join(MODELS)})")
    usage.add_argument("--fault", nargs="+", metavar="NAME", help="of alignment.faults.catalogue (default: all)")
    usage.add_argument("--seeds", type=int, default=1, help="how many sets of weights of each kind (default 1)")
    usage.add_argument("--clean", action="store_true", help="correct ports only: is there a false alarm?")
    args = usage.parse_args(argv)
    if args.clean and args.fault:
        usage.error("--clean makes no fault; leave out --fault")
    use_vector_kernels()
    try:
        faults = [*map(by_name, args.fault)] if args.fault else [] if args.clean else FAULTS
        models = [*VARIANTS] if args.model == ["all"] else [resolve_name(name) for name in args.model]
    except (KeyError, ValueError) as error:
        usage.error(str(error.args[0]))
    if args.seeds < 1:
        usage.error("--seeds must be at least 1")
    cleans, outcomes = selftest(models, faults, args.seeds, lambda text: print(text, file=sys.stderr, flush=True))
    wrong = [outcome for outcome in outcomes if outcome.applicable and not (outcome.passed and outcome.cause)]
    alarms = [clean.verdict for clean in cleans if not clean.passed]
    print("\n".join([*alarms, *map(line, wrong)]))
    print(f"{'no fault':15} {len(cleans)} comparisons: {len(alarms)} false alarms")
    print("\n".join(totals(outcomes)))
    return 0 if passed(cleans, outcomes) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
