"""The folder of an export: complete or absent, with a record that verifies its files.

No framework. ``preprocessing.json`` is the record. ``run.py`` reads it too, so increase ``FORMAT`` if the meaning of a
key changes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from paddle_dla.data.class_names import ClassNames, NamedBy, imagenet_class_names
from paddle_dla.exporting.errors import ExportError
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.folders import atomic_folder, check_folder, recover
from paddle_dla.storage.json_record import Count, FormatError, RecordError
from paddle_dla.storage.json_record import read_record as read_json_record
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import FileRecord, PreprocessingRecord, describe_file, file_difference
from paddle_dla.storage.shown import shown

FORMAT = 1
RECORD = "preprocessing.json"
RUNNER = "run.py"
STEM = "model"
"""Stem of the model's files: ``model.json``, ``model.pdiparams``, ``model.onnx``."""
FORMATS = ("inference", "onnx")
NETWORKS = {"inference": f"{STEM}.pdiparams", "onnx": f"{STEM}.onnx"}
"""Format: the file that contains its weights."""


@dataclass(frozen=True)
class Record:
    """The content of ``preprocessing.json``.

    ``class_names`` has ``num_classes`` names, or is ``None``. ``class_ids`` likewise has the folder names of the
    classes. ``weights`` is the origin of the weights, with their SHA-256. ``precision`` is that of the ONNX file,
    ``float32`` or ``int8``. ``check`` is the result of the check after the export. ``files`` holds size and SHA-256 of
    every other file of the folder.
    """

    model: str
    num_classes: int
    preprocessing: Preprocessing
    formats: tuple[str, ...]
    class_names: tuple[str, ...] | None = None
    class_ids: tuple[str, ...] | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def known_classes(self) -> tuple[ClassNames | None, NamedBy]:
        """Return the names of the classes, for folders and for display, and their origin."""
        if self.class_names is None:
            return None, NamedBy.NOBODY
        imagenet = imagenet_class_names()
        if self.class_names == imagenet.names and self.class_ids in (None, imagenet.ids):
            return imagenet, NamedBy.IMAGENET
        return ClassNames(self.class_ids or self.class_names, self.class_names), NamedBy.WEIGHTS


class _Optional(TypedDict, total=False):
    class_ids: list[str] | None


class _Stored(_Optional):
    format: int
    model: str
    num_classes: Count
    preprocessing: PreprocessingRecord
    formats: list[str]
    class_names: list[str] | None
    weights: dict[str, Any]
    precision: str
    versions: dict[str, str | None]
    check: dict[str, Any]
    files: dict[str, FileRecord]


def export_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """Return the files of the export ``folder``, none if there is no export."""
    return [] if folder is None else [Path(folder, RECORD), Path(folder, RUNNER), *Path(folder).glob(f"{STEM}.*")]


def write_record(folder: Path, record: Record) -> None:
    """Write ``preprocessing.json``; ``files`` are read from the folder."""
    files = {path.name: describe_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    content = {"format": FORMAT, **asdict(record), "preprocessing": record.preprocessing.as_dict(), "files": files}
    (folder / RECORD).write_text(to_json(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: str | os.PathLike[str]) -> Record:
    """Read the record of an export and verify its files.

    Raises ``ExportError`` if ``folder`` is not an export, was written by a later version, or is damaged.
    """
    root = Path(folder)
    content = _read_json(root)
    try:
        record = _from_json(content)
    except ValueError as error:
        raise ExportError(f"{root / RECORD} is damaged: {error}; export again") from error
    _refuse_unlisted(root, record)
    for name, expected in record.files.items():
        _verify(root / name, expected)
    return record


def _refuse_unlisted(root: Path, record: Record) -> None:
    """Raise ``ExportError`` for a file that an engine would run but the record does not list: it was never verified."""
    needed = {*(path.name for path in root.glob(f"{STEM}.*")), *(NETWORKS[form] for form in record.formats)}
    unlisted = sorted(needed - record.files.keys())
    if unlisted:
        raise ExportError(f"{root / RECORD} lists no checksum of {', '.join(unlisted)}; export again")


def _read_json(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise ExportError(f"{root} is no folder; name one that python -m paddle_dla.export wrote")
    try:
        return read_json_record(root / RECORD, _Stored, FORMAT)
    except FileNotFoundError:
        raise ExportError(f"{root} is no export: it has no {RECORD}; make one: python -m paddle_dla.export") from None
    except OSError as error:
        raise ExportError(f"cannot read {root / RECORD}: {error.strerror}; export again") from error
    except FormatError as error:
        raise ExportError(f"{root / RECORD} {error}: update paddle-dla, or export again") from error
    except RecordError as error:
        raise ExportError(f"{root / RECORD} is damaged: {error}; export again") from error


def _from_json(content: Mapping[str, Any]) -> Record:
    return Record(
        model=content["model"],
        num_classes=content["num_classes"],
        preprocessing=Preprocessing.from_dict(content["preprocessing"]),
        formats=tuple(_format(form) for form in content["formats"]),
        class_names=_names(content, "class_names"),
        class_ids=_names(content, "class_ids"),
        weights=content["weights"],
        precision=content["precision"],
        versions=content["versions"],
        check=content["check"],
        files={_plain(name): dict(item) for name, item in content["files"].items()},
    )


def _names(content: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    names, num_classes = content.get(key), content["num_classes"]
    if names is None:
        return None
    if len(names) != num_classes:
        raise ValueError(f"{key} has {len(names)} names of {num_classes} classes")
    return tuple(names)


def _format(form: str) -> str:
    if form not in FORMATS:
        raise ValueError(f"'{shown(form)}' is no format that this version knows: {', '.join(FORMATS)}")
    return form


def _plain(name: str) -> str:
    if name != Path(name).name:
        raise ValueError(f"'{shown(name)}' is no file of the folder")
    return name


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        difference = file_difference(path, expected)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}; copy the whole folder, or export again") from error
    if difference is not None:
        raise ExportError(f"{path} is not what was exported: {difference}; copy the folder or export again")


def check_target(folder: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise ``ExportError`` or ``CheckpointError`` if ``folder`` cannot be created, before any work is done for it.

    Only an export is ever replaced, and only with ``overwrite``.
    """
    target = Path(folder)
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise ExportError(f"{target} exists; choose another folder, or replace it with --overwrite")
        if target.is_symlink() or not (target / RECORD).is_file():
            raise ExportError(f"{target} is not an export, so it is not replaced; choose another folder")
        _refuse_foreign(target)
    check_folder(target)


def _refuse_foreign(target: Path) -> None:
    """Raise ``ExportError`` if a folder contains files of the user: replacing the folder would remove them."""
    own = {path.name for path in export_files(target)}
    foreign = sorted(shown(path.name) for path in target.iterdir() if path.name not in own or path.is_dir())
    if foreign:
        raise ExportError(
            f"{target} holds more than an export ({', '.join(foreign[:5])}), which would be lost; move it away, or "
            "choose another folder"
        )


@contextmanager
def export_folder(folder: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` to fill. It becomes ``folder`` if the block ends without an exception.

    Raises ``CheckpointError`` if the system refuses; the previous content of ``folder`` is then still there.
    """
    target = Path(folder)
    recover(target.absolute().parent, re.escape(target.name))
    check_target(target, overwrite)
    with atomic_folder(target, replace=overwrite) as part:
        yield part
