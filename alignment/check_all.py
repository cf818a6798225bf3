"""Run every check of a port, one after the other: one line for each, one exit code.

Usage::

    python alignment/check_all.py --model dla60 --checkpoint model.safetensors --converted dla60.pdparams
    python alignment/check_all.py --model all --html report.html --json report.json

Without ``--converted`` the weights are converted to a temporary file, so that the checked weights have been written and
read. The report of a check that fails is printed in full; ``--full`` prints all reports.

Exit codes: 0 all aligned, 1 a check fails or the weights do not fit, 2 usage.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alignment.check_backward import BackwardOptions, check_backward
from alignment.check_data import SampleOptions, add_data, check_data
from alignment.check_forward import ForwardOptions, check_forward
from alignment.check_init import InitOptions, add_seeds, check_init
from alignment.check_loss import check_loss
from alignment.check_metric import check_metric
from alignment.check_optimizer import OptimizerOptions, check_optimizer
from alignment.check_schedule import check_schedule
from alignment.check_training import TrainingOptions, check_training
from alignment.check_weights import check_weights
from alignment.command import (
    Check,
    CheckOptions,
    ModelOptions,
    Progress,
    WeightOptions,
    add_inputs,
    add_weights,
    announcer,
    chosen_models,
    chosen_source,
    parser,
    refuse_reports,
    write_reports,
)
from alignment.engine.reporting.text import text
from alignment.engine.result import Result
from convert.conversion import converted
from paddle_dla import weight_files
from paddle_dla.cpu import use_vector_kernels
from paddle_dla.errors import UserError
from paddle_dla.models.registry import find_model
from paddle_dla.options import options_of
from paddle_dla.terminal import run_command


@dataclass(frozen=True, kw_only=True)
class AllOptions(ModelOptions):
    """The options of every check, and those of the data and initialisation checks."""

    data: str | None = None
    samples: int = SampleOptions.samples
    seeds: int = InitOptions.seeds


@dataclass(frozen=True)
class Step:
    """One check: its ``name``, the class of its options, and the options that ``AllOptions`` does not contain."""

    name: str
    check: Check
    options: type[CheckOptions] = CheckOptions
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def run(self, options: AllOptions, progress: Progress) -> Result:
        """Run the check."""
        return self.check(options_of(self.options, options, **self.chosen), progress)


SHORT_TRAINING = {"optimizer": ("sgd",), "steps": 3, "train_batch": 4}
"""``check_training`` with its defaults takes minutes for a large model."""

CHECKS = (
    Step("data", check_data, SampleOptions),
    Step("weights", check_weights, WeightOptions),
    Step("forward", check_forward, ForwardOptions),
    Step("backward, eval", check_backward, BackwardOptions, {"mode": "eval"}),
    Step("backward, train", check_backward, BackwardOptions, {"mode": "train"}),
    Step("init", check_init, InitOptions),
    Step("loss", check_loss),
    Step("metric", check_metric),
    Step("optimizer", check_optimizer, OptimizerOptions, {"steps": 3}),
    Step("schedule", check_schedule),
    Step("training", check_training, TrainingOptions, SHORT_TRAINING),
)
"""All checks, the cheapest explanation of a fault first. To add a check, add a line."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check of one model; ``refusal`` holds the reason if it could not be run."""

    model: str
    name: str
    result: Result
    seconds: float
    refusal: str = ""

    @property
    def passed(self) -> bool:
        """Whether the check was run and everything is aligned."""
        return not self.refusal and self.result.passed

    def line(self) -> str:
        """Describe the outcome in one line."""
        verdict = f"REFUSED: {self.refusal}" if self.refusal else self.result.verdict()
        return f"{self.model:15} {self.name:16} {self.seconds:7.1f} s  {verdict}"


def check_all(options: AllOptions, progress: Progress, checks: Sequence[Step] = CHECKS) -> Iterator[Outcome]:
    """Run all ``checks`` on one model; a check that is refused does not stop the others.

    Raises ``CheckpointError`` where there are no weights to check.
    """
    model = options.model
    with _converted(options, progress) as complete:
        for each in checks:
            if each.name == "init" and find_model(model).folder is not None:
                progress(f"{model}: init is left out: a port begins with the weights of its folder")
                continue
            progress(f"{model}: {each.name}")
            yield _outcome(each, complete, progress)


def _outcome(each: Step, options: AllOptions, progress: Progress) -> Outcome:
    began = time.perf_counter()
    refusal = ""
    try:
        result = each.run(options, progress)
    except (UserError, OSError) as error:
        refusal = str(error).splitlines()[0]
        result = Result(f"{options.model}: {each.name}", "", facts={"refused": str(error)})
    return Outcome(options.model, each.name, result, time.perf_counter() - began, refusal)


@contextmanager
def _converted(options: AllOptions, progress: Progress) -> Iterator[AllOptions]:
    """Yield the options with a converted file, which is made if none is given."""
    if options.converted:
        yield options
        return
    with tempfile.TemporaryDirectory() as folder:
        source = chosen_source(options, progress)
        conversion = converted(source, options.model)
        path = Path(folder) / "converted.pdparams"
        weight_files.save(path, conversion.arrays, conversion.manifest)
        yield replace(options, converted=str(path))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    usage = parser("check-all", __doc__)
    add_weights(usage)
    add_inputs(usage)
    add_seeds(usage)
    add_data(usage)
    options = options_of(AllOptions, usage.parse_args(argv))
    models = chosen_models(options, usage)
    use_vector_kernels()
    outcomes: list[Outcome] = []
    try:
        refuse_reports(options)
        for number, model in enumerate(models, 1):
            for outcome in check_all(replace(options, model=model), announcer(f"[{number}/{len(models)}] ")):
                outcomes.append(outcome)
                _show(outcome, options.full)
        ended = True
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        ended = False
    written = write_reports([outcome.result for outcome in outcomes], options)
    print("\n".join(outcome.line() for outcome in outcomes))
    return 0 if ended and written and outcomes and all(outcome.passed for outcome in outcomes) else 1


def _show(outcome: Outcome, full: bool) -> None:
    """Print the report of a check that failed, or of any check with ``full``."""
    if outcome.refusal:
        print(f"error: {outcome.model}, {outcome.name}: {outcome.result.facts['refused']}", file=sys.stderr)
    elif full or not outcome.passed:
        print(text(outcome.result, fold=not full), end="\n\n", flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
