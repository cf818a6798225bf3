"""What a command reads and what it writes, held apart: no file is written twice, and none replaced that is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from paddle_dla.storage.destination import Destination
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.manifest import manifest_path

PathLike = str | os.PathLike[str]


def check_apart(written: Mapping[str, PathLike | None], read: Iterable[PathLike | None] = ()) -> None:
    """Raises ``CheckpointError`` where two of the files ``written`` are one, or one of them is ``read``.

    ``written``: what each is, as ``--json``, and where it goes; of weights the manifest counts as well. What is
    ``None`` is not asked for. A device or a pipe may be named more than once; whether a place can be written at all is
    asked by ``check_writable``.
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
    """Raises ``CheckpointError`` where one of the files ``written`` lies in ``folder``, which is written as a whole.

    Neither may it be the ``folder``, or one above it.
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
