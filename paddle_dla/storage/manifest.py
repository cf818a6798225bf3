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
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.regular import open_regular, read_text

FORMAT = 1
SUFFIX = ".manifest.json"


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Where the manifest of the weight file ``path`` lies."""
    return Path(f"{os.fspath(path)}{SUFFIX}")


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
    target, sidecar = Path(path), manifest_path(path)
    replacing = target.exists()
    try:
        with atomic_path(target) as part:
            write(part, arrays)
            manifest = {**manifest, "file": describe_file(part)}
            _write_json(sidecar, {**manifest, "previous": _current_record(target)} if replacing else manifest)
    except BaseException:
        if not replacing:
            sidecar.unlink(missing_ok=True)
        raise
    if replacing:
        # both are the new ones by now; a record of the old one that cannot be dropped does no harm
        with suppress(CheckpointError):
            _write_json(sidecar, manifest)


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The manifest of the weight file ``path``, or ``None`` where there is none.

    Raises ``CheckpointError`` where it is unreadable or of another format.
    """
    sidecar = manifest_path(path)
    if not sidecar.exists():
        return None
    manifest = _read_json(sidecar)
    if manifest is None:
        raise CheckpointError(f"{sidecar} is no readable manifest; convert again, or remove it to load unverified")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{sidecar} has format {manifest['format']!r}; this version reads {FORMAT}")
    return manifest


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
            return previous if _is_complete(previous) else None
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
        return f"{recorded!r} is recorded of it, which is no size and checksum"
    for key, measure in (("bytes", os.path.getsize), ("sha256", file_sha256)):
        if (actual := measure(path)) != recorded.get(key):
            return f"{key} {recorded.get(key)} became {actual}"
    return None


def _current_record(target: Path) -> dict[str, Any]:
    """The record of the file that stands at ``target``; where it has none, what identifies it."""
    with suppress(CheckpointError):
        record = verify(target)
        if record is not None:
            return record
    return {"file": describe_file(target)}


def _read_json(path: Path) -> dict[str, Any] | None:
    """The content of a manifest, or ``None`` where it lacks what every manifest has."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError):
        return None
    return content if _is_complete(content) else None


def _is_complete(content: object) -> bool:
    """Whether it says what every manifest says; one that accounts for no tensor accounts for nothing."""
    return (
        isinstance(content, dict)
        and "format" in content
        and isinstance(content.get("model"), str)
        and all(isinstance(content.get(key), dict) and content[key] for key in ("tensors", "file"))
    )


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
