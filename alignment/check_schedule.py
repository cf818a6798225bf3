"""Compare the learning rate of every parameter at every update of a run.

Usage::

    python alignment/check_schedule.py --model dla60

The schedules run on the parameter groups of the model, with layer-wise learning rates that decay towards the input.

Exit codes: 0 aligned, 1 not aligned, 2 usage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.command import CheckOptions, Progress, parser, run
from alignment.engine.judging.parts import part_row
from alignment.engine.result import Result
from paddle_dla.terminal import run_command

EPOCHS, UPDATES, LR, LAYER_DECAY = 12, 5, 0.1, 0.75

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("cosine", dict(warmup_epochs=2)),
    "cosine, warm-up as a prefix": ("cosine", dict(warmup_epochs=2, warmup_prefix=True, warmup_lr=0.0)),
    "cosine, minimum and cool-down": ("cosine", dict(min_lr=1e-5, cooldown_epochs=3)),
    "cosine, restarts": ("cosine", dict(cycle_limit=3, cycle_mul=1.5, cycle_decay=0.5)),
    "poly": ("poly", dict(warmup_epochs=2, decay_rate=0.9)),
    "step": ("step", dict(warmup_epochs=2, decay_epochs=3)),
    "multistep": ("multistep", dict(warmup_epochs=2, decay_milestones=(3, 6, 9))),
    "constant": ("constant", dict(warmup_epochs=2)),
}
"""timm's name, and the arguments of ``create_scheduler_v2``."""


def check_schedule(options: CheckOptions, progress: Progress) -> Result:
    """Compare every schedule, per epoch and per update, on the groups of one model."""
    from alignment.pairs import versions

    model = options.model
    result = Result(f"{model}: learning rates, timm against Paddle", "float64")
    progress(f"{model}: {len(CASES)} schedules")
    ours, theirs = timm_optimizer(model), paddle_optimizer(model)
    for case, (name, settings) in CASES.items():
        for per_epoch in (True, False):
            exact = timm_rates(ours, name, per_epoch, settings)
            port = paddle_rates(theirs, name, per_epoch, settings)
            # rates are float64 in torch for any weights: the floor is one rounding
            direction = "per epoch" if per_epoch else "per update"
            result.rows.append(part_row(case, "schedule", len(result.rows), exact, exact, port, direction))
    result.facts = {
        "compared": f"each update of {EPOCHS} epochs with {UPDATES} updates, for each parameter",
        "versions": versions(),
    }
    return result


def timm_optimizer(model: str) -> tuple[Any, dict[int, str]]:
    """Return timm's optimizer of a model, and the names of its parameters."""
    from alignment.models import fresh_reference
    from torch_ref.model import import_timm

    import_timm()
    from timm.optim import create_optimizer_v2

    module = fresh_reference(model, 0)
    optimizer = create_optimizer_v2(module, "sgd", lr=LR, weight_decay=1e-4, layer_decay=LAYER_DECAY)
    return optimizer, {id(parameter): name for name, parameter in module.named_parameters()}


def timm_rates(made: tuple[Any, dict[int, str]], name: str, per_epoch: bool, settings: dict[str, Any]) -> np.ndarray:
    """Return timm's learning rates (updates, parameters), with the parameters in the order of their names."""
    from timm.scheduler import create_scheduler_v2

    optimizer, names = made
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = LR
    given: dict[str, Any] = dict(step_on_epochs=per_epoch, updates_per_epoch=UPDATES) | settings
    scheduler, epochs = create_scheduler_v2(optimizer, name, EPOCHS, **given)
    assert scheduler is not None, f"timm has no schedule {name}"
    rates = []
    for epoch in range(epochs):
        for update in range(UPDATES):
            groups = optimizer.param_groups
            of_parameter = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
            rates.append([of_parameter[key] for key in sorted(of_parameter)])
            scheduler.step_update(epoch * UPDATES + update + 1)
        scheduler.step(epoch + 1)
    return np.array(rates)


def paddle_optimizer(model: str) -> Any:
    """Return the Paddle optimizer of the same model."""
    from paddle_dla import create_model
    from paddle_dla.optim import create_optimizer

    return create_optimizer(create_model(model), "sgd", LR, 1e-4, layer_decay=LAYER_DECAY)


def paddle_rates(optimizer: Any, name: str, per_epoch: bool, settings: dict[str, Any]) -> np.ndarray:
    """Return Paddle's learning rates, as ``timm_rates`` does."""
    from paddle_dla.schedule import Scheduler, create_schedule

    schedule = create_schedule(name, LR, EPOCHS, UPDATES, per_epoch=per_epoch, **settings)
    scheduler = Scheduler(optimizer, schedule)
    scales = {key: group.lr_scale for group in optimizer.groups for key in group.parameters}
    rates = []
    for update in range(schedule.total_epochs * UPDATES):
        rates.append([optimizer.get_lr() * scales[key] for key in sorted(scales)])
        scheduler.step_update(update + 1)
    return np.array(rates)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run(parser("check-schedule", __doc__), argv, CheckOptions, check_schedule)


if __name__ == "__main__":
    sys.exit(run_command(main))
