"""Run every check of a port, one after the other: one line for each, one exit code.

Usage::

    python alignment/check_all.py --model dla60 --checkpoint model.safetensors --converted dla60.pdparams
    python alignment/check_all.py --model all --html report.html --json report.json

Without ``--converted`` the weights are converted to a file that is removed afterwards, so that what is checked has
been written and read. The report of a check that fails is printed in full; ``--full`` prints those of all.

Exit codes: 0 all aligned, 1 a check fails or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.check_backward import check_backward
from alignment.check_data import add_data, check_data
from alignment.check_forward import check_forward
from alignment.check_init import add_seeds, check_init
from alignment.check_loss import check_loss
from alignment.check_metric import check_metric
from alignment.check_optimizer import check_optimizer
from alignment.check_schedule import check_schedule
from alignment.check_training import check_training
from alignment.check_weights import check_weights
from alignment.command import (
    Check,
    Progress,
    add_inputs,
    add_weights,
    announcer,
    chosen_models,
    chosen_source,
    converted,
    parser,
    refuse_reports,
    write_reports,
)
from alignment.engine.reporting.text import text
from alignment.engine.result import Result
from paddle_dla import checkpoint
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.errors import UserError
from paddle_dla.models.registry import find_model
from paddle_dla.terminal import run_command


@dataclass(frozen=True)
class Checkpoint:
    """One check by ``name``, and what it is asked for beside what the command line says."""

    name: str
    check: Check
    options: Mapping[str, Any] = field(default_factory=dict)


SHORT_TRAINING = {"optimizer": ["sgd"], "steps": 3, "train_batch": 4, "train_size": None, "dtype": "float64"}
"""What ``check_training`` does by itself takes minutes for a large model."""

CHECKS = (
    Checkpoint("data", check_data),
    Checkpoint("weights", check_weights),
    Checkpoint("forward", check_forward, {"dtype": "float64"}),
    Checkpoint("backward, eval", check_backward, {"mode": "eval"}),
    Checkpoint("backward, train", check_backward, {"mode": "train"}),
    Checkpoint("init", check_init),
    Checkpoint("loss", check_loss),
    Checkpoint("metric", check_metric),
    Checkpoint("optimizer", check_optimizer, {"optimizer_steps": 3}),
    Checkpoint("schedule", check_schedule),
    Checkpoint("training", check_training, SHORT_TRAINING),
)
"""All checks, the cheapest explanation of a fault first. A new one is a line here."""


@dataclass(frozen=True)
class Outcome:
    """What became of one check of one model; ``refusal`` says why it could not be made, if it could not."""

    model: str
    name: str
    result: Result
    seconds: float
    refusal: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was made, and all is aligned."""
        return not self.refusal and self.result.passed

    def line(self) -> str:
        """The outcome in one line."""
        verdict = f"REFUSED: {self.refusal}" if self.refusal else self.result.verdict()
        return f"{self.model:16}{self.name:17}{self.seconds:7.1f} s  {verdict}"


def check_all(
    args: argparse.Namespace, model: str, progress: Progress, checks: Sequence[Checkpoint] = CHECKS
) -> Iterator[Outcome]:
    """Make every one of ``checks``; one that is refused does not stop the others.

    Raises ``CheckpointError`` where there are no weights to check.
    """
    with _converted(args, model, progress) as arguments:
        for each in checks:
            if each.name == "init" and find_model(model).folder is not None:
                progress(f"{model}: init is left out: a port begins with the weights of its folder")
                continue
            progress(f"{model}: {each.name}")
            yield _outcome(each, arguments, model, progress)


def _outcome(each: Checkpoint, args: argparse.Namespace, model: str, progress: Progress) -> Outcome:
    began = time.perf_counter()
    refusal = ""
    try:
        result = each.check(argparse.Namespace(**{**vars(args), **each.options}), model, progress)
    except (UserError, OSError) as error:
        refusal = str(error).splitlines()[0]
        result = Result(f"{model}: {each.name}", "", facts={"refused": str(error)})
    return Outcome(model, each.name, result, time.perf_counter() - began, refusal)


@contextmanager
def _converted(args: argparse.Namespace, model: str, progress: Progress) -> Iterator[argparse.Namespace]:
    """The arguments with a converted file in them, made where none is given."""
    if args.converted:
        yield args
        return
    with tempfile.TemporaryDirectory() as folder:
        source = chosen_source(args, model, progress)
        conversion = converted(source, model)
        path = Path(folder) / "converted.pdparams"
        checkpoint.save(path, conversion.arrays, conversion.manifest)
        yield argparse.Namespace(**{**vars(args), "converted": str(path)})


def main(argv: Sequence[str] | None = None) -> int:
    """The script: returns the exit code."""
    usage = parser("check-all", __doc__)
    add_weights(usage)
    add_inputs(usage)
    add_seeds(usage)
    add_data(usage)
    args = usage.parse_args(argv)
    models = chosen_models(args, usage)
    use_vector_kernels()
    outcomes: list[Outcome] = []
    try:
        refuse_reports(args)
        for number, model in enumerate(models, 1):
            for outcome in check_all(args, model, announcer(f"[{number}/{len(models)}] ")):
                outcomes.append(outcome)
                _show(outcome, args.full)
        ended = True
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        ended = False
    written = write_reports([outcome.result for outcome in outcomes], args)
    print("\n".join(outcome.line() for outcome in outcomes))
    return 0 if ended and written and outcomes and all(outcome.passed for outcome in outcomes) else 1


def _show(outcome: Outcome, full: bool) -> None:
    """The report of a check that failed, or of any where everything was asked for."""
    if outcome.refusal:
        print(f"error: {outcome.model}, {outcome.name}: {outcome.result.facts['refused']}", file=sys.stderr)
    elif full or not outcome.passed:
        print(text(outcome.result, fold=not full), end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
