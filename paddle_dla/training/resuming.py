"""Select the checkpoint that a run resumes from, and report or refuse what has changed since. No framework."""

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
# options that the state depends on: with other values it would not fit, or have another meaning
FIXED = (
    "model.in_chans",
    "model.global_pool",
    "optimizer.name",
    "train.freeze",
    "train.linear_probe",
)
# options for output folders and display: changes are not reported
SILENT = ("train.output", "train.resume", "train.log_interval", "model.name", "model.num_classes", "model.pretrained")


@dataclass(frozen=True)
class Choice:
    """The chosen checkpoint, ``None`` for a new run; ``notes`` are for the user."""

    checkpoint: Checkpoint | None
    notes: tuple[str, ...] = ()


def choose(output: Path, resume: bool | str) -> Choice:
    """Return the checkpoint to resume from, as selected by ``train.resume``.

    ``True``: the newest intact one of ``output``; a damaged one is reported and skipped. A path: that checkpoint (or
    the newest of that folder), unless ``output`` has checkpoints already; the same command therefore resumes after it
    was killed. ``False``: none. Raises ``ResumeError`` if no intact one is left, if a path has none, and if a new run
    would start in a folder with checkpoints; ``CheckpointError`` for a path that is damaged.
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
            notes += (f"{own.path} was renamed; its record, epoch {at.epoch}, batch {at.batch}, is used",)
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
    """Return the checkpoint at ``path``: its folder, a file in it, or the newest in an output folder."""
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
    """Return one line for each difference from the run that wrote ``checkpoint``.

    Raises ``ResumeError``, with all of them, if the state does not fit the requested run.
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
    """Return the name of the model of a checkpoint; the folder of a port may have been renamed since."""
    return (read_manifest(checkpoint.path / MODEL) or {}).get("model", "")


def refuse_other_classes(checkpoint: Checkpoint, num_classes: int, classes: Sequence[str] | None) -> None:
    """Raise ``ResumeError`` if the classes of the data are numbered differently from those of the weights.

    Raises ``CheckpointError`` if the checkpoint records invalid class names.
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
    """Return the plan of the run that wrote the checkpoint."""
    return Plan(**checkpoint.record["plan"])


def position_in(plan: Plan, checkpoint: Checkpoint) -> Position:
    """Return the position at which a run with ``plan`` resumes."""
    return plan.moved(checkpoint.position, plan_of(checkpoint))
