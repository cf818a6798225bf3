"""The sidecar of a weight file: where every tensor came from, and a checksum that proves it is still the same.

``dla60.pdparams`` has ``dla60.pdparams.manifest.json`` beside it. Both are replaced together although a file system
can rename only one file at a time: the new manifest is put in place first and carries the old one along
(``previous``), so whichever weight file is found, one of the two records fits it. The rename of the weight file is
the moment at which the new state begins.
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

FORMAT = 1
SUFFIX = ".manifest.json"


def manifest_path(path: str | os.PathLike[str]) -> Path:
    """Where the manifest of the weight file ``path`` lies."""
    return Path(f"{os.fspath(path)}{SUFFIX}")


def describe(array: np.ndarray) -> dict[str, Any]:
    """Type, shape and SHA-256 (of the little-endian C-order bytes) of one tensor."""
    flat = np.ascontiguousarray(array).reshape(-1)
    digest = hashlib.sha256(flat.view(np.uint8).data).hexdigest()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as model hubs publish it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_with_manifest(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    manifest: Mapping[str, Any],
    write: Callable[[Path, Mapping[str, np.ndarray]], None],
) -> None:
    """Put ``arrays`` (through ``write``) and ``manifest`` in place together, or leave both as they were.

    ``manifest["tensors"]`` must describe exactly ``arrays``. Raises ``CheckpointError`` where the system refuses.
    """
    target, sidecar = Path(path), manifest_path(path)
    previous = _read_json(sidecar) or {}
    previous.pop("previous", None)
    replacing = target.exists()
    try:
        with atomic_path(target) as part:
            write(part, arrays)
            _write_json(sidecar, {**manifest, "previous": previous} if replacing else manifest)
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

    Raises ``CheckpointError`` where it is unreadable or of a newer format.
    """
    sidecar = manifest_path(path)
    if not sidecar.exists():
        return None
    manifest = _read_json(sidecar)
    if manifest is None:
        raise CheckpointError(f"{sidecar} is no readable manifest; convert again, or remove it to load unverified")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{sidecar} has format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest


def verify(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The manifest record that ``arrays``, read from ``path``, agree with; ``None`` where there is no manifest.

    Raises ``CheckpointError`` that lists every tensor which is missing, unknown or changed.
    """
    manifest = read_manifest(path)
    if manifest is None:
        return None
    actual = {name: describe(array) for name, array in arrays.items()}
    faults = _faults(manifest, actual)
    previous = manifest.pop("previous", None)
    if not faults:
        return manifest
    if previous is not None and not (previous and _faults(previous, actual)):
        return previous or None  # the writer was stopped between its two renames: this is still the old file
    listed = "\n  ".join(faults)
    raise CheckpointError(
        f"{path} is not what was written, says {manifest_path(path).name}:\n  {listed}\n"
        "the file was damaged or replaced; convert or copy it again"
    )


def _faults(manifest: Mapping[str, Any], actual: Mapping[str, Mapping[str, Any]]) -> list[str]:
    recorded = manifest["tensors"]
    faults = [f"{name}: missing in the file" for name in recorded if name not in actual]
    faults += [f"{name}: unknown to the manifest" for name in actual if name not in recorded]
    for name in recorded.keys() & actual.keys():
        changed = [key for key in ("dtype", "shape", "sha256") if recorded[name][key] != actual[name][key]]
        faults += [f"{name}: {key} {recorded[name][key]} became {actual[name][key]}" for key in changed]
    return sorted(faults)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("tensors"), dict) else None


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
