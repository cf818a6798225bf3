"""The folder of an export: complete or absent, and a record that proves its files to be what was written.

No framework. ``preprocessing.json`` is the record; ``run.py`` reads it too, so a key of it that changes its meaning
raises ``FORMAT``.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paddle_dla.data.class_names import ClassNames, NamedBy, imagenet_class_names
from paddle_dla.exporting.errors import ExportError
from paddle_dla.preprocessing import Preprocessing
from paddle_dla.storage.atomic import process_runs, write_error
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.manifest import describe_file, file_difference
from paddle_dla.storage.regular import read_text

FORMAT = 1
RECORD = "preprocessing.json"
RUNNER = "run.py"
STEM = "model"
"""Of the model's files: ``model.json``, ``model.pdiparams``, ``model.onnx``."""
FORMATS = ("inference", "onnx")
NETWORKS = {"inference": f"{STEM}.pdiparams", "onnx": f"{STEM}.onnx"}
"""Format: the file that holds its weights."""


@dataclass(frozen=True)
class Record:
    """What ``preprocessing.json`` holds.

    ``class_names`` has ``num_classes`` names, or is ``None``; ``class_ids`` likewise, what folders of the classes are
    called; ``weights`` says where they came from, with their SHA-256; ``precision`` is that of the ONNX file,
    ``float32`` or ``int8``; ``check`` is what was measured after the export; ``files`` holds size and SHA-256 of every
    other file of the folder.
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
        """What the classes are called, by folders and by people, and who says so."""
        if self.class_names is None:
            return None, NamedBy.NOBODY
        imagenet = imagenet_class_names()
        if self.class_names == imagenet.names and self.class_ids in (None, imagenet.ids):
            return imagenet, NamedBy.IMAGENET
        return ClassNames(self.class_ids or self.class_names, self.class_names), NamedBy.WEIGHTS


def write_record(folder: Path, record: Record) -> None:
    """Write ``preprocessing.json``; ``files`` are taken from what lies in the folder."""
    files = {path.name: describe_file(path) for path in sorted(folder.iterdir()) if path.name != RECORD}
    content = {"format": FORMAT, **asdict(record), "preprocessing": record.preprocessing.as_dict(), "files": files}
    (folder / RECORD).write_text(to_json(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: str | os.PathLike[str]) -> Record:
    """The record of an export, its files verified.

    Raises ``ExportError`` where ``folder`` is no export, was written by a later version, or is damaged.
    """
    root = Path(folder)
    content = _read_json(root)
    if content["format"] != FORMAT:
        raise ExportError(
            f"{root / RECORD} has format {content['format']!r}; this version reads {FORMAT}: update paddle-dla, or "
            "export again"
        )
    try:
        record = _from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(f"{root / RECORD} is damaged: {error}; export again") from error
    _refuse_unlisted(root, record)
    for name, expected in record.files.items():
        _verify(root / name, expected)
    return record


def _refuse_unlisted(root: Path, record: Record) -> None:
    """What an engine would run must be in the record, or nobody has verified it. Raises ``ExportError``."""
    needed = {*(path.name for path in root.glob(f"{STEM}.*")), *(NETWORKS[form] for form in record.formats)}
    unlisted = sorted(needed - record.files.keys())
    if unlisted:
        raise ExportError(f"{root / RECORD} lists no checksum of {', '.join(unlisted)}; export again")


def _read_json(root: Path) -> dict[str, Any]:
    if not root.is_dir():
        raise ExportError(f"{root} is no folder; name one that python -m paddle_dla.export wrote")
    try:
        content = json.loads(read_text(root / RECORD))
    except FileNotFoundError:
        raise ExportError(f"{root} is no export: it has no {RECORD}; make one: python -m paddle_dla.export") from None
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {root / RECORD}: {error}; export again") from error
    if not isinstance(content, dict) or "format" not in content:
        raise ExportError(f"{root / RECORD} is no record of an export; export again")
    return content


def _from_json(content: Mapping[str, Any]) -> Record:
    num_classes = int(content["num_classes"])
    return Record(
        model=str(content["model"]),
        num_classes=num_classes,
        preprocessing=Preprocessing.from_dict(content["preprocessing"]),
        formats=tuple(_format(form) for form in content["formats"]),
        class_names=_names(content["class_names"], num_classes),
        class_ids=_names(content.get("class_ids"), num_classes),
        weights=dict(content["weights"]),
        precision=str(content["precision"]),
        versions=dict(content["versions"]),
        check=dict(content["check"]),
        files={_plain(name): dict(item) for name, item in content["files"].items()},
    )


def _names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(names) != num_classes:
        raise ValueError(f"class names are {num_classes} texts, not {str(names)[:80]}")
    return tuple(names)


def _format(form: str) -> str:
    if form not in FORMATS:
        raise ValueError(f"{form!r} is no format that this version knows: {', '.join(FORMATS)}")
    return form


def _plain(name: str) -> str:
    if name != Path(name).name:
        raise ValueError(f"{name!r} is no file of the folder")
    return name


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        difference = file_difference(path, expected)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}; copy the whole folder, or export again") from error
    if difference is not None:
        raise ExportError(f"{path} is not what was exported: {difference}; copy the folder or export again")


def check_target(folder: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises ``ExportError`` or ``CheckpointError`` where ``folder`` cannot be made, before any work is done for it.

    Only an export is ever replaced, and only with ``overwrite``.
    """
    target = Path(folder)
    if target.exists() or target.is_symlink():
        if not overwrite:
            raise ExportError(f"{target} exists; choose another folder, or replace it with --overwrite")
        if target.is_symlink() or not (target / RECORD).is_file():
            raise ExportError(f"{target} is not an export, so it is not replaced; choose another folder")
    part = _beside(target, "part")
    try:
        part.mkdir()
        part.rmdir()
    except OSError as error:
        raise write_error(target, error) from error


@contextmanager
def atomic_folder(folder: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """An empty folder beside ``folder`` to fill; when the block ends without an exception it becomes ``folder``.

    Raises ``CheckpointError`` where the system refuses; what stood at ``folder`` is then still there.
    """
    target = Path(folder)
    _clear_leftovers(target)
    check_target(target, overwrite)
    part, old = _beside(target, "part"), _beside(target, "old")
    try:
        part.mkdir()
        yield part
        _reach_disk(sorted(part.iterdir()))
        if target.exists():
            os.rename(target, old)
        _take_place(part, target, old)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _clear_leftovers(target: Path) -> None:
    """Remove what killed writers left; one that was stopped between its two renames had the old folder set aside."""
    resolved = Path(os.path.abspath(target))
    for leftover in resolved.parent.glob(f".{glob.escape(resolved.name)}.*"):
        pid, _, suffix = leftover.name.removeprefix(f".{resolved.name}.").partition(".")
        if suffix not in ("part", "old") or process_runs(pid):
            continue
        if suffix == "old" and not resolved.exists():
            os.rename(leftover, resolved)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _take_place(part: Path, target: Path, old: Path) -> None:
    try:
        os.rename(part, target)
    except OSError:
        with suppress(FileNotFoundError):
            os.rename(old, target)
        raise


def _beside(target: Path, suffix: str) -> Path:
    resolved = Path(os.path.abspath(target))
    return resolved.with_name(f".{resolved.name}.{os.getpid()}.{suffix}")


def _reach_disk(paths: Sequence[Path]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
