"""Images without labels: files, folders and patterns that a user names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence

import numpy as np

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import FileSource
from paddle_dla.data.walk import Walk, is_image


def open_images(paths: Sequence[str]) -> FileSource:
    """Open all images given by ``paths``, in their order: files, folders (recursively), shell patterns.

    An image that is named twice, or reached through a link as well, is included once, and a note says so. Raises
    ``DataError`` for a path that does not exist, a folder or pattern without images, and the errors of ``Walk``.
    """
    found, notes = [], []
    for path in map(os.path.expanduser, paths):
        walk = Walk()
        found += _named(path, walk)
        notes += walk.notes(path)
    names = _once(found)
    if len(names) < len(found):
        notes.append(f"{len(found) - len(names)} images are named more than once; each counts once")
    return FileSource("", names, np.full(len(names), -1), None, notes)


def _once(names: Sequence[str]) -> list[str]:
    """Return the first name of each file. Whether two folders are the same is checked once for each."""
    folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(name) for name in names}}
    first = {}
    for name in names:
        folder, file = os.path.split(name)
        first.setdefault((folders[folder], file), name)
    return list(first.values())


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a folder that directly contains images, not in class folders."""
    folder = os.path.expanduser(path)
    return os.path.isdir(folder) and any(is_image(name) for name in os.listdir(folder))


def _named(path: str, walk: Walk) -> list[str]:
    if os.path.isdir(path):
        found = sorted(walk.images(path))
        if not found:
            raise DataError(f"{path}: there are no images in this folder")
        return found
    if os.path.exists(path):
        return [path]
    found = sorted(_images(glob.glob(path, recursive=True)))
    if not found:
        raise DataError(f"{path}: is not there, and as a pattern it matches no images")
    return found


def _images(names: Iterable[str]) -> list[str]:
    return [name for name in names if is_image(name)]
