"""Images without labels: files, folders and patterns that a user names."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence

import numpy as np

from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import is_image
from paddle_dla.data.source import FileSource


def open_images(paths: Sequence[str]) -> FileSource:
    """All images that ``paths`` name, in their order: files, folders (with all that is in them), shell patterns.

    Raises ``DataError`` for a path that names nothing, or a folder or pattern without images.
    """
    names = [name for path in paths for name in _named(os.path.expanduser(path))]
    return FileSource("", names, np.full(len(names), -1), None)


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is a folder with images of its own, not in class folders."""
    folder = os.path.expanduser(path)
    return os.path.isdir(folder) and any(is_image(name) for name in os.listdir(folder))


def _named(path: str) -> list[str]:
    if os.path.isdir(path):
        found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(path) for name in _images(names))
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
