"""The sidecar of a weight file: where every tensor came from, and checksums that prove it is still the same.

``dla60.pdparams`` has ``dla60.pdparams.manifest.json`` beside it. Both are replaced together although a file system
can rename only one file at a time: the new manifest is put in place first and carries the old one along
(``previous``), so whichever weight file is found, one of the two records fits it. The rename of the weight file is
the moment at which the new state begins.

The checksum of the whole file (``file``) is held against it before anything in it is interpreted; those of the
tensors (``tensors``) say what was converted, whatever the format of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from paddle_dla.storage.atomic import atomic_path, check_regular, check_writable, reach_disk
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_record import Count, FormatError, RecordError, Sha256, Within, check_record, read_record
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.regular import open_regular
from paddle_dla.storage.turn import in_turn

FORMAT = 1
SUFFIX = ".manifest.json"
MOST_CLASSES = 2**20
"""Of what was trained so far, ImageNet-21k has the most, 21,843."""


class FileRecord(TypedDict):
    """``describe_file`` of a file."""

    bytes: Count
    sha256: Sha256


class PreprocessingRecord(TypedDict):
    """``Preprocessing.as_dict``."""

    input_size: list[Count]
    crop_pct: float
    interpolation: str
    mean: list[float]
    std: list[float]


class TensorRecord(TypedDict):
    """``describe`` of a tensor; conversions add where it came from."""

    dtype: str
    shape: list[Count]
    sha256: Sha256


class _DroppedRecord(TypedDict, total=False):
    value: Annotated[int, Within(-(2**63), 2**63 - 1)]


class _Optional(TypedDict, total=False):
    num_classes: Annotated[int, Within(0, MOST_CLASSES)]
    in_chans: Annotated[int, Within(1, 2**10)]  # hyperspectral sensors have some hundred
    global_pool: str
    classes: list[str] | None
    class_ids: list[str] | None
    preprocessing: PreprocessingRecord
    source: dict[str, Any]
    versions: dict[str, str | None]
    dropped: dict[str, _DroppedRecord]
    previous: dict[str, Any]


class Manifest(_Optional):
    """What a manifest holds; ``previous`` is that of the file that is being replaced."""

    format: int
    model: str
    tensors: dict[str, TensorRecord]
    file: FileRecord


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Where the manifest of the weight file ``path`` lies; of a link beside the link, else beside what it leads to."""
    beside = Path(f"{os.fspath(path)}{SUFFIX}")
    if os.path.islink(path) and not os.path.lexists(beside):
        return _beside_target(path)
    return beside


def _beside_target(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.path.realpath(path)}{SUFFIX}")


def describe(array: np.ndarray) -> dict[str, Any]:
    """Type, shape and SHA-256 (of the little-endian C-order bytes) of one tensor."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    digest = hashlib.sha256(flat.view(np.uint8).data).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as model hubs publish it."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Size and SHA-256 of a weight file, as its manifest records them."""
    return {"bytes": os.path.getsize(path), "sha256": file_sha256(path)}


def write_with_manifest(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    manifest: Mapping[str, Any],
    write: Callable[[Path, Mapping[str, np.ndarray]], None],
) -> None:
    """Put ``arrays`` (through ``write``) and ``manifest`` in place together, or leave both as they were.

    ``manifest["tensors"]`` must describe exactly ``arrays``; ``file`` is added. Raises ``CheckpointError`` where the
    system refuses.
    """
    check_weights_writable(path)
    target, sidecar = Path(path), manifest_path(path)
    new = False  # whether there is nothing yet that the manifest could be of
    with ExitStack() as turn:
        try:
            with atomic_path(target) as part:
                write(part, arrays)
                with ThreadPoolExecutor(1) as beside:
                    described = beside.submit(describe_file, part)
                    reach_disk(part)
                manifest = {**manifest, "file": described.result()}
                # until both are in place, or another process would put its own between them
                turn.enter_context(in_turn([Path(os.path.realpath(target))]))
                new = not target.exists()
                _write_json(sidecar, manifest if new else {**manifest, "previous": _current_record(target)})
        except BaseException:
            if new:
                sidecar.unlink(missing_ok=True)
            raise
        if not new:
            # both are the new ones by now; a record of the old one that cannot be dropped does no harm
            with suppress(CheckpointError):
                _write_json(sidecar, manifest)


def check_weights_writable(path: str | os.PathLike[str]) -> None:
    """Raises ``CheckpointError`` where weights and their manifest could not be written, before any work for them."""
    check_regular(path, "a weight file with a manifest")
    beside, behind = manifest_path(path), _beside_target(path)
    check_writable(beside)
    if beside.exists() and behind.exists() and not beside.samefile(behind):
        raise CheckpointError(
            f"cannot write {path}: it is a link, and {beside} and {behind} both describe the file; remove the wrong one"
        )


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest of the weight file ``path``, or ``None`` where there is none.

    Raises ``CheckpointError`` where it is unreadable or of another format.
    """
    sidecar = manifest_path(path)
    if not sidecar.exists():
        return None
    try:
        return read_record(sidecar, Manifest, FORMAT)
    except FormatError as error:
        raise CheckpointError(f"{sidecar} {error}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {sidecar}: {error.strerror}") from error
    except RecordError as error:
        raise CheckpointError(
            f"{sidecar} is no readable manifest: {error}; convert again, or remove it to load unverified"
        ) from None


def verify(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest record that the weight file ``path`` agrees with; ``None`` where there is no manifest.

    Nothing in the file is interpreted. Raises ``CheckpointError`` where it is missing or not what was written.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return None
    previous = manifest.pop("previous", None)
    try:
        difference = file_difference(path, manifest["file"])
        if difference is None:
            return manifest
        if isinstance(previous, dict) and file_difference(path, previous.get("file")) is None:
            # the writer was stopped between its two renames: this is still the old file
            return previous if _is_manifest(previous) else None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    raise CheckpointError(
        f"{path} is not what was written, says {manifest_path(path).name}: {difference}; it was damaged or replaced. "
        "Convert or copy it again, or remove the manifest to load it unverified"
    )


def file_difference(path: str | os.PathLike[str], recorded: object) -> str | None:
    """In what a file is not what ``describe_file`` said of it, in words; ``None`` where it still is.

    The size first: nothing is read of a file that has another one. Raises ``OSError`` where it cannot be read.
    """
    if not isinstance(recorded, Mapping):
        return "what is recorded of it is no size and checksum"
    for key, measure in (("bytes", os.path.getsize), ("sha256", file_sha256)):
        if (actual := measure(path)) != recorded.get(key):
            return f"{key} {recorded.get(key)} became {actual}"
    return None


def _is_manifest(content: Mapping[str, Any]) -> bool:
    try:
        check_record(content, Manifest)
    except RecordError:
        return False
    return True


def _current_record(target: Path) -> dict[str, Any]:
    """The record of the file that stands at ``target``; where it has none, what identifies it."""
    with suppress(CheckpointError):
        record = verify(target)
        if record is not None:
            return record
    return {"file": describe_file(target)}


def check_tensors(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Raises ``CheckpointError`` where a manifest is not of these ``arrays``: other names or shapes than it records.

    Their values are the file's, whose checksum was held against it.
    """
    recorded = {
        name: tuple(entry.get("shape", ())) if isinstance(entry, dict) else None
        for name, entry in manifest["tensors"].items()
    }
    found = {name: array.shape for name, array in arrays.items()}
    if recorded != found:
        differing = sorted(name for name in recorded.keys() | found.keys() if recorded.get(name) != found.get(name))
        raise CheckpointError(
            f"{manifest_path(path)} describes other tensors than {path} holds: {len(differing)} differ, the first is "
            f"{differing[0]}; convert again, or remove the manifest to load unverified"
        )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as part:
        part.write_text(_lines(content), encoding="utf-8")


def _lines(content: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each tensor: to be read, and made by the encoder that is written in C."""
    parts = []
    for key, value in content.items():
        if isinstance(value, dict) and len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
            inner = ",\n".join(f"  {to_json(name)}: {to_json(item)}" for name, item in value.items())
            text = f"{{\n{inner}\n }}"
        else:
            text = to_json(value)
        parts.append(f" {to_json(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
