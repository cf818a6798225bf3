"""Start a run from a config: everything is checked and built before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import paddle

from paddle_dla.config import Config, ConfigError, device_faults, to_yaml
from paddle_dla.config.cost import cost
from paddle_dla.cpu import usable_threads, use_vector_kernels
from paddle_dla.errors import WrongValue
from paddle_dla.ranks import Ranks, gather
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.terminal import OutputError
from paddle_dla.training import checkpoints
from paddle_dla.training.assembly import (
    build_ema,
    build_optimizer,
    build_schedule,
    create_criterion,
    create_network,
    freeze_as_told,
)
from paddle_dla.training.datasets import Datasets, certain_scores, open_datasets, sample_transform, train_loader
from paddle_dla.training.hold import Hold, holding
from paddle_dla.training.log import RunLog
from paddle_dla.training.place import CONFIG, MARK, refuse_place
from paddle_dla.training.plan import Plan, Position
from paddle_dla.training.resuming import FOLDER, Choice, changes, choose, position_in, refuse_other_classes
from paddle_dla.training.state import Best, Circumstances, restore, share
from paddle_dla.training.step import Learner
from paddle_dla.training.stopping import StopRequest
from paddle_dla.training.trainer import Progressing, Trainer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """Result of a run. ``best`` is ``None`` without validation; ``folder`` holds the checkpoints."""

    best: Best | None
    folder: Path


def train(config: Config, ranks: Ranks, stop: StopRequest, say: Say = print) -> Outcome:
    """Train according to ``config``, resuming from ``train.output``; ``say`` receives messages for the user.

    Raises ``ConfigError``, ``TrainingError``, ``DataError`` or ``CheckpointError`` for invalid requests, mostly before
    anything is written, and the errors of ``Trainer.run``. ``train.output`` is locked against other runs meanwhile.
    """
    device = use_device(config, ranks)
    sample_transform(config)
    datasets = open_datasets(config)
    notes = certain_scores(config, datasets)
    plan = plan_for(config, datasets, ranks)
    output = Path(config.train.output)
    if ranks.first:
        refuse_place(output, (config.data.train, config.data.val))
    around = Circumstances(
        config, plan, datasets.num_classes, datasets.classes, device, use_threads(config.train.threads)
    )
    with holding(output, ranks.first, say) as hold:
        choice = _agreed_choice(output, config, around, ranks, say)
        at = _beginning(choice, plan, output / FOLDER)
        for line in (*datasets.train.notes, *(datasets.val.notes if datasets.val else ()), *notes):
            say(line)
        for line in essentials(around, datasets, at):
            say(line)
        learner = build_learner(config, plan, datasets.num_classes, choice.checkpoint is None, datasets.classes)
        if choice.checkpoint is not None:
            if ranks.first:
                restore(learner, checkpoints.read(choice.checkpoint), str(choice.checkpoint.path))
            share(learner, ranks)
        return _run(around, datasets, learner, ranks, stop, hold, at)


def _run(
    around: Circumstances,
    datasets: Datasets,
    learner: Learner,
    ranks: Ranks,
    stop: StopRequest,
    hold: Hold,
    at: Progressing,
) -> Outcome:
    output = hold.folder
    output.mkdir(parents=True, exist_ok=True)
    if ranks.first:
        with atomic_path(output / CONFIG) as part:
            part.write_text(MARK + to_yaml(around.config), encoding="utf-8")
    plan = around.plan
    made, interval = plan.updates(at.position), around.config.train.log_interval
    log = RunLog(output, ranks.rank, ranks.count, plan.total_updates, made, interval)
    if made:
        log.event("resume", f"after step {made}: epoch {at.position.epoch}, batch {at.position.batch}")
    try:
        Trainer(around, datasets, learner, ranks, stop, hold, log, at).run()
    except BaseException:
        with suppress(CheckpointError, OutputError):  # a failed picture must not hide why the run ends
            log.close()
        raise
    log.close()
    hold.check()
    return Outcome(at.best, output / FOLDER)


def use_device(config: Config, ranks: Ranks) -> str:
    """Return ``cpu`` or ``gpu``, as requested or available. Raises ``ConfigError`` for an unavailable device."""
    there = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    device = config.train.device
    if device == "auto":
        device = "gpu" if there else "cpu"
    faults = device_faults(config, device)
    if device == "gpu" and not there:
        raise WrongValue("train.device is gpu, but Paddle sees none: install paddlepaddle-gpu, or set it to cpu")
    if faults:
        raise ConfigError(faults)
    if ranks.count == 1 or device == "cpu":  # with several GPUs, each process was given its own
        paddle.set_device(device)
    if config.train.deterministic and device == "gpu":
        paddle.set_flags({"FLAGS_cudnn_deterministic": True})
    return device


def use_threads(wanted: int | None) -> int:
    """Set the number of threads, by default this process's share of the cores, and return it."""
    threads = wanted or usable_threads()
    use_vector_kernels()
    paddle.base.core.set_num_threads(threads)
    return threads


def plan_for(config: Config, datasets: Datasets, ranks: Ranks) -> Plan:
    """Return the updates of a run. Raises ``TrainingError`` if there is less data than one batch."""
    batches = train_loader(config, datasets, ranks).num_batches
    return Plan(config.total_epochs, batches, config.train.grad_accum_steps, config.data.batch_size, ranks.count)


def build_learner(
    config: Config, plan: Plan, num_classes: int, fresh: bool = True, classes: tuple[str, ...] | None = None
) -> Learner:
    """Build network, loss, optimizer and their companions in the state before the first update."""
    network = create_network(config, num_classes, fresh)
    frozen = freeze_as_told(config, network)
    schedule = build_schedule(config, plan)
    return Learner(
        network,
        frozen,
        create_criterion(config, num_classes, classes),
        build_optimizer(config, network, schedule(0)),
        schedule,
        build_ema(config, network),
        paddle.amp.GradScaler() if config.train.amp == "float16" else None,
    )


def _agreed_choice(output: Path, config: Config, around: Circumstances, ranks: Ranks, say: Say) -> Choice:
    """Send the first rank's choice of a checkpoint to all ranks: only its machine needs the files."""
    choice = Choice(None)
    if ranks.first:
        choice = choose(output, config.train.resume)
        for note in choice.notes:
            say(note)
        if choice.checkpoint is not None:
            refuse_other_classes(choice.checkpoint, around.num_classes, around.classes)
            differing = changes(choice.checkpoint, config, around.num_classes, around.plan, around.threads)
            say(f"going on from {choice.checkpoint.path}")
            for line in differing:
                say(f"  not as before: {line}")
    return gather(choice, ranks)[0]


def _beginning(choice: Choice, plan: Plan, folder: Path) -> Progressing:
    if choice.checkpoint is None:
        return Progressing()
    best, position = choice.checkpoint.record["best"], position_in(plan, choice.checkpoint)
    is_there = choice.checkpoint.path == folder / checkpoints.folder_name(position)
    return Progressing(position, None if best is None else Best(**best), position if is_there else None)


def essentials(around: Circumstances, datasets: Datasets, at: Progressing) -> list[str]:
    """Return the facts that a user checks before leaving a run alone."""
    config, plan = around.config, around.plan
    schedule = build_schedule(config, plan)
    optimizer = f"{config.optimizer.name}, lr {config.optimizer.learning_rate(plan.images):.6g}"
    begun = "" if at.position == Position() else f", from epoch {at.position.epoch}, batch {at.position.batch} on"
    return [
        f"{config.model.name}, {around.num_classes} classes, images {config.train_input_size()}",
        f"{images_to_train_on(config, plan, datasets.train.num_samples)}, "
        f"{datasets.val.num_samples if datasets.val else 'none'} to validate",
        f"{optimizer} ({config.schedule.name}; {schedule(0):.6g} at first), global batch {plan.images} = "
        f"{plan.batch_size} x {plan.ranks} processes x {plan.accumulation}",
        f"{around.device}, {around.threads} threads in each process; Paddle {paddle.__version__}",
        f"{plan.epochs} epochs x {plan.updates_per_epoch} updates = {plan.total_updates} steps{begun}",
        f"cost: {cost(config, datasets.train.num_samples)}",
        f"results: {config.train.output}",
    ]


def images_to_train_on(config: Config, plan: Plan, count: int) -> str:
    """Describe how many of ``count`` images an epoch takes: an incomplete last batch is left out, as in timm."""
    left_out = count - plan.batches * plan.batch_size * plan.ranks
    if config.transform.train.aug_repeats or left_out <= 0:
        return f"{count} images to train on"
    return f"{count} images to train on, {left_out} of them left out of each epoch (the last batch would be incomplete)"
