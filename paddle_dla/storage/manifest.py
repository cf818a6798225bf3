"""The sidecar of a weight file: the origin of every tensor, and checksums that verify it.

``dla60.pdparams`` has ``dla60.pdparams.manifest.json`` beside it. Both are replaced together, although a file system
can rename only one file at a time: the new manifest is put in place first and contains the old one (``previous``), so
one of the two records matches whichever weight file is found. The new state begins with the rename of the weight file.

The checksum of the whole file (``file``) is verified before anything in it is interpreted. The checksums of the tensors
(``tensors``) identify what was converted, in any file format.
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
"""The largest number of classes trained so far is that of ImageNet-21k, 21,843."""


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
    """``describe`` of a tensor; conversions add its origin."""

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
    """The content of a manifest; ``previous`` is that of the file that is being replaced."""

    format: int
    model: str
    tensors: dict[str, TensorRecord]
    file: FileRecord


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of the manifest of ``path``: beside a link, if it exists there, else beside the link's target."""
    beside = Path(f"{os.fspath(path)}{SUFFIX}")
    if os.path.islink(path) and not os.path.lexists(beside):
        return _beside_target(path)
    return beside


def _beside_target(path: str | os.PathLike[str]) -> Path:
    return Path(f"{os.path.realpath(path)}{SUFFIX}")


def describe(array: np.ndarray) -> dict[str, Any]:
    """Return type, shape and SHA-256 (of the little-endian C-order bytes) of one tensor."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1)
    digest = hashlib.sha256(flat.view(np.uint8).data).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, as model hubs publish it."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return size and SHA-256 of a weight file, as its manifest records them."""
    return {"bytes": os.path.getsize(path), "sha256": file_sha256(path)}


def write_with_manifest(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    manifest: Mapping[str, Any],
    write: Callable[[Path, Mapping[str, np.ndarray]], None],
) -> None:
    """Put ``arrays`` (written by ``write``) and ``manifest`` in place together, or leave both unchanged.

    ``manifest["tensors"]`` must describe exactly ``arrays``; ``file`` is added. Raises ``CheckpointError`` if the
    system refuses.
    """
    check_weights_writable(path)
    target, sidecar = Path(path), manifest_path(path)
    new = False  # whether there is no file yet that the manifest could describe
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
            # both are new by now; an old record that cannot be removed does no harm
            with suppress(CheckpointError):
                _write_json(sidecar, manifest)


def check_weights_writable(path: str | os.PathLike[str]) -> None:
    """Raise ``CheckpointError`` if weights and their manifest could not be written, before any work for them."""
    check_regular(path, "a weight file with a manifest")
    beside, behind = manifest_path(path), _beside_target(path)
    check_writable(beside)
    if beside.exists() and behind.exists() and not beside.samefile(behind):
        raise CheckpointError(
            f"cannot write {path}: it is a link, and {beside} and {behind} both describe the file; remove the wrong one"
        )


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the manifest of the weight file ``path``; ``None`` if there is none.

    Raises ``CheckpointError`` if it is unreadable or has another format.
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
    """Return the manifest record that matches the weight file ``path``; ``None`` if there is no manifest.

    Nothing in the file is interpreted. Raises ``CheckpointError`` if it is missing or differs from the record.
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
    """Describe how a file differs from its record by ``describe_file``; ``None`` if it matches.

    The size is compared first: a file of another size is not read. Raises ``OSError`` if it cannot be read.
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
    """Return the record of the existing file at ``target``; if it has none, its identification."""
    with suppress(CheckpointError):
        record = verify(target)
        if record is not None:
            return record
    return {"file": describe_file(target)}


def check_tensors(manifest: Mapping[str, Any], arrays: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> None:
    """Raise ``CheckpointError`` if the names or shapes in a manifest are not those of ``arrays``.

    The values are covered by the checksum of the file, which was verified.
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
    """Return JSON with one line for each key, and for each tensor: readable, and written by the encoder in C."""
    parts = []
    for key, value in content.items():
        if isinstance(value, dict) and len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
            inner = ",\n".join(f"  {to_json(name)}: {to_json(item)}" for name, item in value.items())
            text = f"{{\n{inner}\n }}"
        else:
            text = to_json(value)
        parts.append(f" {to_json(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
