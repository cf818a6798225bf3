"""Folders that appear complete or not at all, as ``paddle_dla/storage/atomic.py`` does it for files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddle_dla.data.errors import DataError


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty hidden folder beside ``path`` to fill; it becomes ``path`` when the block ends without an exception.

    What a killed run left of it is removed first. Raises ``DataError`` where ``path`` is already something, or where
    the system refuses to write; ``path`` is then as it was.
    """
    target = Path(path).expanduser()
    part = target.with_name(f".{target.name}.part")
    check_new(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if part.exists():
            shutil.rmtree(part)
        part.mkdir()
        yield part
        os.replace(part, target)  # onto an empty folder too
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}; choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_new(path: str | os.PathLike[str]) -> None:
    """Raises ``DataError`` unless ``path`` is free or an empty folder."""
    target = Path(path)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target}: is there already; remove it or name another folder")
