"""Which checkpoint a run goes on from, what has changed since, and what cannot be gone on with. No framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.config import Config, difference, parse_config
from paddle_dla.data.class_names import recorded_class_names
from paddle_dla.data.labelling import differences
from paddle_dla.data.source import shortened
from paddle_dla.errors import WrongValue
from paddle_dla.models.registry import model_name
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path, read_manifest
from paddle_dla.training.checkpoints import MODEL, Checkpoint, found, newest, recover, verify
from paddle_dla.training.errors import ResumeError
from paddle_dla.training.plan import Plan, Position

FOLDER = "checkpoints"
# options that the state belongs to: with others it would not fit, or mean something else
FIXED = (
    "model.in_chans",
    "model.global_pool",
    "optimizer.name",
    "train.freeze",
    "train.linear_probe",
)
# options that say where a run is kept and what is shown of it: no news
SILENT = ("train.output", "train.resume", "train.log_interval", "model.name", "model.num_classes", "model.pretrained")


@dataclass(frozen=True)
class Choice:
    """``checkpoint`` is ``None`` for a run that begins; ``notes`` are for the user."""

    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


def choose(output: Path, resume: bool | str) -> Choice:
    """The checkpoint to go on from, as ``train.resume`` says.

    ``True``: the newest of ``output`` that is whole; a damaged one is named and passed over. A path: that one (or the
    newest of that folder), unless ``output`` has checkpoints already: the same command, after it was killed, goes on.
    ``False``: none. Raises ``ResumeError`` where nothing whole is left, where a path has none, and where a run is to
    begin in a folder that has checkpoints; ``CheckpointError`` for a path that is damaged.
    """
    folder = output / FOLDER
    recover(folder)
    if resume is False:
        return _none_wanted(folder)
    own, faults = newest(folder)
    notes = tuple(f"passed over: {fault}" for fault in faults)
    if own is not None:
        if own.is_renamed:
            at = own.position
            notes += (f"{own.path} was renamed: its record says epoch {at.epoch}, batch {at.batch}, which counts",)
        if isinstance(resume, str):
            notes += (f"{folder} has checkpoints, which go before {resume}",)
        return Choice(own, notes)
    if faults:
        raise ResumeError("no checkpoint is whole:\n  " + "\n  ".join(faults) + f"\nto begin anew remove {folder}")
    return Choice(_named(Path(resume))) if isinstance(resume, str) else Choice(None)


def _none_wanted(folder: Path) -> Choice:
    if found(folder):
        raise ResumeError(
            f"{folder} has checkpoints of an earlier run: remove them, name another train.output, or go on from them "
            "with train.resume=true"
        )
    return Choice(None)


def _named(path: Path) -> Checkpoint:
    """The checkpoint at ``path``: its folder, a file in it, or the newest in an output folder."""
    place = path.parent if path.is_file() else path
    if (place / "state.json").exists():
        return verify(place.resolve())
    for folder in (place, place / FOLDER):
        best, faults = newest(folder)
        if best is not None:
            return best
        if faults:
            raise CheckpointError("; ".join(faults))
    raise ResumeError(f"{path}: there is no checkpoint of a training; weights alone go into model.pretrained")


def changes(checkpoint: Checkpoint, config: Config, num_classes: int, plan: Plan, threads: int) -> list[str]:
    """What is not as it was when ``checkpoint`` was written, a line each.

    Raises ``ResumeError``, with all of it, where the state does not belong to what is asked for.
    """
    before = parse_config(checkpoint.record["config"], str(checkpoint.path))
    lines = [str(change) for change in difference(before, config) if change.key not in (*SILENT, *FIXED)]
    refused = [str(change) for change in difference(before, config) if change.key in FIXED]
    if checkpoint_model(checkpoint) != model_name(config.model.name):
        refused.insert(0, f"model.name: {before.model.name} -> {config.model.name}")
    if checkpoint.record["num_classes"] != num_classes:
        refused.append(f"classes: {checkpoint.record['num_classes']} -> {num_classes}")
    if refused:
        raise ResumeError(
            f"{checkpoint.path} cannot be gone on from, it is of another model or optimizer:\n  "
            + "\n  ".join(refused)
            + "\nset these back, or begin anew in another train.output with model.pretrained="
            + str(checkpoint.path / "model.pdparams")
        )
    return lines + _surroundings(checkpoint, plan, threads)


def checkpoint_model(checkpoint: Checkpoint) -> str:
    """The model that a checkpoint is of; a port's folder may have another name by now."""
    return (read_manifest(checkpoint.path / MODEL) or {}).get("model", "")


def refuse_other_classes(checkpoint: Checkpoint, num_classes: int, classes: Sequence[str] | None) -> None:
    """Raises ``ResumeError`` where the data number their classes otherwise than those that the weights were trained on.

    ``CheckpointError`` where the checkpoint records what can be no names.
    """
    manifest = read_manifest(checkpoint.path / MODEL) or {}
    if classes is None or manifest.get("classes") is None or checkpoint.record["num_classes"] != num_classes:
        return
    try:
        differing = differences(classes, recorded_class_names(manifest["classes"], num_classes))
    except WrongValue as error:
        raise CheckpointError(f"{manifest_path(checkpoint.path / MODEL)}: {error}") from error
    if differing:
        raise ResumeError(
            f"{checkpoint.path} was trained on other classes: {shortened(differing)}; bring the folders back, or "
            "number them with data.class_map"
        )


def _surroundings(checkpoint: Checkpoint, plan: Plan, threads: int) -> list[str]:
    lines, before = [], plan_of(checkpoint)
    if before.ranks != plan.ranks:
        lines.append(f"processes: {before.ranks} -> {plan.ranks}: the order of images and the rounding are other ones")
    if before.batches != plan.batches:
        lines.append(f"batches of an epoch and process: {before.batches} -> {plan.batches}")
    old_threads = checkpoint.record["environment"]["threads"]
    if old_threads != threads:
        lines.append(f"threads: {old_threads} -> {threads}: sums are rounded otherwise")
    return lines


def plan_of(checkpoint: Checkpoint) -> Plan:
    """The plan that the checkpoint's run followed."""
    return Plan(**checkpoint.record["plan"])


def position_in(plan: Plan, checkpoint: Checkpoint) -> Position:
    """Where a run by ``plan`` goes on."""
    return plan.moved(checkpoint.position, plan_of(checkpoint))
