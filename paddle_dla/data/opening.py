"""Open ``--data DIR|LIST|TAR``: one function that detects the form."""

from __future__ import annotations

import glob
import os

from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import open_folder
from paddle_dla.data.list_file import open_list
from paddle_dla.data.shards import ShardSource, open_shards
from paddle_dla.data.source import FileSource


def open_source(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> FileSource | ShardSource:
    """Open the samples of a class-folder tree, a list file, or tar shards (a file, a pattern, a folder of them).

    ``root``: the folder of the files of a list, if not beside it. ``classes``: a file with one class name per line, for
    the indices of class folders and the names of labels. ``num_classes``: labels from this number on are an error.
    Raises ``DataError``, see ``open_folder``, ``open_list``, ``open_shards``.
    """
    text = os.path.expanduser(os.fspath(path))
    is_shards = text.endswith(".tar") or (os.path.isdir(text) and not is_tree(text))
    if root is not None and (is_shards or os.path.isdir(text)):
        raise DataError(f"{path}: a root belongs to a list file, which this is not")
    if is_shards:
        return open_shards(text, classes, num_classes)
    if os.path.isdir(text):
        return open_folder(text, classes, num_classes)
    if os.path.isfile(text):
        return open_list(text, root, classes, num_classes)
    fault = "is neither a folder nor a regular file" if os.path.exists(text) else "is not there"
    raise DataError(f"{path}: {fault}; name a folder of class folders, a list file, or tar shards")


def is_tree(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a folder other than one of tar shards: a tree of class folders, or invalid."""
    text = os.path.expanduser(os.fspath(path))
    has_tars = next(glob.iglob(os.path.join(glob.escape(text), "*.tar")), None) is not None
    return os.path.isdir(text) and not text.endswith(".tar") and not has_tars
