"""Keep inputs and outputs of a command apart: no file is written twice, and no input is replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from paddle_dla.storage.destination import Destination
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path

PathLike = str | os.PathLike[str]


def check_apart(written: Mapping[str, PathLike | None], read: Iterable[PathLike | None] = ()) -> None:
    """Raise ``CheckpointError`` if two of the files ``written`` are the same, or one of them is ``read``.

    ``written`` maps options such as ``--json`` to paths; for weights the manifest is included. ``None`` means that the
    output was not requested. A device or a pipe may be named more than once. ``check_writable`` checks whether a path
    can be written at all.
    """
    sources = {}
    for path in filter(None, read):
        sources |= {os.path.realpath(file): os.fspath(path) for file in (path, manifest_path(path))}
    places: dict[Path, str] = {}
    for what, path in written.items():
        place = _destination(path) if path else None
        if place is None or place.stream:
            continue
        if os.fspath(place.file) in sources:
            raise CheckpointError(
                f"{what} would replace {sources[os.fspath(place.file)]}, which is read; name another file"
            )
        other = places.setdefault(place.file, what)
        if other != what:
            raise CheckpointError(f"{what} and {other} are one file: {path}; name two")


def check_outside(written: Mapping[str, PathLike | None], folder: PathLike) -> None:
    """Raise ``CheckpointError`` if one of the files ``written`` is in ``folder``, which is written as a whole.

    It must not be ``folder`` itself, or a folder above it, either.
    """
    target = Path(os.path.realpath(folder))
    for what, path in written.items():
        place = _destination(path) if path else None
        if place is None or place.stream:
            continue
        if target in (place.file, *place.file.parents) or place.file in target.parents:
            raise CheckpointError(f"{what} {path} and the folder {os.fspath(folder)} are in each other's way")


def _destination(path: PathLike) -> Destination | None:
    try:
        return Destination.of(path)
    except (OSError, CheckpointError):
        return None
