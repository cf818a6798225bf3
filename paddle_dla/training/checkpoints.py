"""Checkpoints on disk: folders that appear whole or not at all, checked by checksums, rotated. No framework.

``epoch-0003-batch-000120/`` holds the state after 120 batches of epoch 3 (both from 0)::

    model.pdparams      the weights, with a manifest: what evaluate, predict, export and paddle2timm take
    ema.pdparams        their moving average, likewise, where one is kept
    optimizer.pdopt     the optimizer's state
    state.json          position, best score, config, ..., and the SHA-256 of every file, its own content included

All files are written to a hidden folder and flushed to the disk; one rename then gives the folder its name. ``best``
and ``last`` are symbolic links for people; a resumed run searches for the newest intact folder. Names sort by age.
Reading executes no code: pickles go through ``storage.pdparams``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from paddle_dla import weight_files
from paddle_dla.storage import folders
from paddle_dla.storage.atomic import write_error
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import atomic_folder
from paddle_dla.storage.json_record import Count, Sha256, Within, check_record, parse_json
from paddle_dla.storage.json_text import json_sha256, to_json
from paddle_dla.storage.manifest import FileRecord, describe, describe_file, file_difference
from paddle_dla.storage.pdparams import read_pdparams, write_pdparams
from paddle_dla.storage.regular import read_text
from paddle_dla.storage.shown import shown
from paddle_dla.training.plan import Position

FORMAT = 1
STATE, MODEL, EMA, OPTIMIZER = "state.json", "model.pdparams", "ema.pdparams", "optimizer.pdopt"
BEST, LAST = "best", "last"
NAME = r"epoch-([0-9]{4,18})-batch-([0-9]{6,18})"  # limits numbers to what the plan of a run can hold
KEPT_RECENT = 2  # the newest, and its predecessor in case the newest is damaged

Arrays = Mapping[str, np.ndarray]


class _Position(TypedDict):
    epoch: Count
    batch: Count


class _Best(TypedDict):
    score: float
    epoch: Count


class _Plan(TypedDict):
    epochs: Count
    batches: Annotated[int, Within(1, 2**63 - 1)]
    accumulation: Annotated[int, Within(1, 2**63 - 1)]
    batch_size: Annotated[int, Within(1, 2**63 - 1)]
    ranks: Annotated[int, Within(1, 2**63 - 1)]


class _Environment(TypedDict):
    threads: Count


class _Optional(TypedDict, total=False):
    scaler: dict[str, Any] | None


class State(_Optional):
    """The parts of the ``content`` of ``state.json`` that are read again."""

    format: int
    position: _Position
    plan: _Plan
    score: float | None
    best: _Best | None
    config: str
    num_classes: Count
    environment: _Environment
    files: dict[str, FileRecord]


class _Stored(TypedDict):
    sha256: Sha256
    content: dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """The complete state of a run as plain values.

    ``record`` holds JSON values, with ``position`` and ``score`` (larger is better, ``None``: not validated). ``facts``
    are stored in the manifests of the weights, in addition to their tensors.
    """

    model: Arrays
    ema: Arrays | None
    optimizer: Arrays
    record: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """One folder, and its record."""

    path: Path
    record: Mapping[str, Any]

    @property
    def position(self) -> Position:
        """Position of the run at the checkpoint."""
        return Position(**self.record["position"])

    @property
    def is_renamed(self) -> bool:
        """Whether the folder's name differs from the recorded position, which a run never causes."""
        return self.path.name != folder_name(self.position)


def folder_name(position: Position) -> str:
    """Return the folder name of a checkpoint at ``position``."""
    return f"epoch-{position.epoch:04d}-batch-{position.batch:06d}"


# --- reading ---------------------------------------------------------------------------------------------------------


def found(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, intact or not, the newest first.

    Only names that ``folder_name`` produces count; any other folder belongs to the user. The age is taken from the
    record, and from the name only if the record cannot be read, because a folder may have been renamed.
    """
    named = {path: _position(path.name) for path in folder.glob("epoch-*-batch-*")}
    paths = [path for path in named if named[path] and path.is_dir() and not path.is_symlink()]
    recorded = {item.path: item.position for item in _readable(paths)}
    places = {path: recorded.get(path, named[path]) for path in paths}
    return sorted(paths, key=lambda path: (places[path], places[path] == named[path]), reverse=True)


def _position(name: str) -> Position | None:
    """Return the position in a folder's name, or ``None`` if ``folder_name`` does not produce that name."""
    digits = re.fullmatch(NAME, name)
    position = Position(*map(int, digits.groups())) if digits else None
    return position if position and folder_name(position) == name else None


def recover(folder: Path) -> None:
    """Restore a checkpoint that a killed process had set aside, and remove half-written ones."""
    folders.recover(folder, NAME)


def read_record(path: Path) -> Checkpoint:
    """Read the record of a checkpoint and verify its own checksum. Raises ``CheckpointError`` if it is invalid."""
    try:
        stored = parse_json(read_text(path / STATE))
        check_record(stored, _Stored)
        content = stored["content"]
        if stored["sha256"] != json_sha256(content):
            raise CheckpointError(f"{path / STATE} is not what was written: it was damaged")
        if content.get("format") != FORMAT:
            raise CheckpointError(f"{path} has format {shown(content.get('format'))}; this version reads {FORMAT}")
        check_record(content, State)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read {STATE}: {error.strerror}") from error
    except ValueError as error:  # includes RecordError
        raise CheckpointError(f"{path / STATE} is no record of a checkpoint: {error}") from error
    unlisted = [name for name in (MODEL, OPTIMIZER) if name not in content["files"]]
    if unlisted:
        raise CheckpointError(f"{path / STATE} has no checksum of {' and '.join(unlisted)}")
    return Checkpoint(path, content)


def verify(path: Path) -> Checkpoint:
    """Verify the checksum of every file of a checkpoint; nothing is interpreted. Raises ``CheckpointError``."""
    result = read_record(path)
    for name, expected in result.record["files"].items():
        try:
            difference = file_difference(path / name, expected)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read {name}: {error.strerror}") from error
        if difference is not None:
            raise CheckpointError(f"{path / name} is not what was written: it was cut off or damaged")
    return result


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint, or ``None``, and the defect of each newer one."""
    faults = []
    for path in found(folder):
        try:
            return verify(path), faults
        except CheckpointError as error:
            faults.append(str(error))
    return None, faults


def read(saved: Checkpoint) -> Snapshot:
    """Read all of a verified checkpoint."""
    has_ema = EMA in saved.record["files"]
    return Snapshot(
        read_pdparams(saved.path / MODEL),
        read_pdparams(saved.path / EMA) if has_ema else None,
        read_pdparams(saved.path / OPTIMIZER),
        saved.record,
        {},
    )


# --- writing ---------------------------------------------------------------------------------------------------------


def write(folder: Path, snapshot: Snapshot) -> Path:
    """Write a checkpoint into ``folder``, replacing one of the same position. Returns its path.

    Raises ``CheckpointError`` if the system refuses; the previous content is then still there.
    """
    target = folder / folder_name(Position(**snapshot.record["position"]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(target, error) from error
    recover(folder)
    try:
        with atomic_folder(target, replace=True) as part:
            _write_files(part, snapshot)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; older checkpoints are as they were") from error
    return target


def _write_files(part: Path, snapshot: Snapshot) -> None:
    for name, arrays in ((MODEL, snapshot.model), (EMA, snapshot.ema)):
        if arrays is not None:
            tensors = {key: describe(array) for key, array in arrays.items()}
            weight_files.save(part / name, arrays, {**snapshot.facts, "tensors": tensors})
    write_pdparams(part / OPTIMIZER, snapshot.optimizer)
    files = {path.name: describe_file(path) for path in sorted(part.iterdir())}
    content = {"format": FORMAT, **snapshot.record, "files": files}
    text = to_json({"sha256": json_sha256(content), "content": content}, indent=1)
    (part / STATE).write_text(text + "\n", encoding="utf-8")


# --- which to keep ---------------------------------------------------------------------------------------------------


def rotate(folder: Path, best: int) -> None:
    """Keep the two newest checkpoints and the ``best`` best ones, remove the others, and update ``best`` and ``last``.

    A renamed checkpoint is left alone.
    """
    saved = [item for item in _readable(found(folder)) if not item.is_renamed]
    ranked = by_score(saved)
    kept = {item.path for item in [*saved[:KEPT_RECENT], *ranked[:best]]}
    if saved:
        _link(folder / LAST, saved[0].path)
    if ranked:
        _link(folder / BEST, ranked[0].path)
    for item in saved:
        if item.path not in kept:
            folders.remove(item.path)


def by_score(saved: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the validated checkpoints, the best first; of equal ones the older first."""
    scored = [item for item in saved if item.record["score"] is not None]
    return sorted(scored, key=lambda item: (-item.record["score"], item.position))


def _readable(paths: Sequence[Path]) -> Iterator[Checkpoint]:
    for path in paths:
        with suppress(CheckpointError):
            yield read_record(path)


def _link(link: Path, target: Path) -> None:
    """Create a symbolic link for people; file systems without symbolic links have none."""
    part = link.with_name(f".{link.name}.{os.getpid()}.part")
    with suppress(OSError):
        part.unlink(missing_ok=True)
        part.symlink_to(target.name)
        os.replace(part, link)
