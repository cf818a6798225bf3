"""Create a new folder of data: complete or absent, and never replacing anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_dla.data.errors import DataError
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import atomic_folder


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty hidden folder beside ``path``; it becomes ``path`` when the block ends without an exception.

    Raises ``DataError`` if ``path`` already exists, or if the system refuses to write; ``path`` is then unchanged.
    """
    target = Path(path).expanduser()
    check_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target, replace=False) as part:
            yield part
    except CheckpointError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; choose another folder") from error


def check_new(path: str | os.PathLike[str]) -> None:
    """Raise ``DataError`` unless ``path`` is free or an empty folder."""
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target}: is there already; remove it or name another folder")
