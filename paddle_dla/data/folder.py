"""A tree of class folders, ``root/class/**/image.ext``, as a source.

The order of classes and images, and which files are images, follow timm 1.0.31
(``timm/data/readers/reader_image_folder.py``), so that sample k is timm's sample k. There are three deviations, all
where timm would continue with wrong labels. A folder inside a class folder belongs to that class (timm: a class of its
own). A class folder without images is an error (timm: every later class moves down by one). A class folder that is
missing in the class map is an error (timm: left out).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.source import FileSource, is_printable, printable, range_of, shortened
from paddle_dla.data.walk import IMAGE_EXTENSIONS, Walk, is_folder, is_image

ClassMap: TypeAlias = Mapping[str, int] | str | os.PathLike[str] | None
_DIGITS = re.compile(r"(\d+)")


def natural_key(text: str) -> list[str | int]:
    """Sort "9" before "10": timm 1.0.31, ``timm/utils/misc.py``."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(text.lower())]


def sorting_key(text: str) -> tuple[list[str | int], str]:
    """Distinguish names that differ only in case or leading zeros, whose order timm leaves undefined."""
    return natural_key(text), text


def class_names(indices: Mapping[str, int]) -> list[str]:
    """Return the names of classes 0 to the largest index; an index missing in the map has an empty name."""
    names = [""] * (max(indices.values()) + 1)
    for name, index in indices.items():
        names[index] = name
    return names


def open_folder(
    root: str | os.PathLike[str],
    classes: ClassMap = None,
    num_classes: int | None = None,
) -> FileSource:
    """Open the images of a tree of class folders.

    ``classes``: a class map (folder -> index) or a file of class names (see ``class_names.py``); a tree with only some
    of its folders keeps the map's indices. Without it the folders are numbered in natural order.
    Raises ``DataError`` for a missing folder, one without class folders, an empty class, a folder that the map lacks, a
    label that ``num_classes`` excludes, and the errors of ``Walk``.
    """
    root = os.path.expanduser(os.fspath(root))
    folders = class_folders(root)
    indices = _class_indices(root, folders, classes)
    names: list[str] = []
    counts, walk, above = [], Walk(), len(os.path.join(root, ""))
    # images are sorted by their whole path, in which "a b/" is before "a/", although class "a" is before "a b"
    by_path = sorted(folders, key=lambda folder: sorting_key(folder + os.sep))
    for folder in by_path:
        paths = walk.images(os.path.join(root, folder))
        found = sorted((path[above:] for path in paths), key=sorting_key)
        names += found
        counts.append(len(found))
    empty = [folder for folder, count in zip(by_path, counts) if count == 0]
    if empty:
        raise DataError(
            f"{root}: no image ({', '.join(IMAGE_EXTENSIONS)}) in the class folder {shortened(empty)}: remove the "
            "folder, or give a class file so that the other classes keep their indices"
        )
    if num_classes:
        outside = [f"{folder} ({indices[folder]})" for folder in folders if indices[folder] >= num_classes]
        if outside:
            raise DataError(f"{root}: label out of range: class folder {shortened(outside)}; {range_of(num_classes)}")
    labels = np.repeat([indices[folder] for folder in by_path], counts)
    return FileSource(root, names, labels, class_names(indices), walk.notes(root))


def _class_indices(root: str, folders: list[str], classes: ClassMap) -> Mapping[str, int]:
    if classes is None:
        return {folder: index for index, folder in enumerate(folders)}
    if isinstance(classes, Mapping):
        indices = classes
    else:
        indices = {name: index for index, name in enumerate(read_class_names(classes).ids)}
    unknown = [folder for folder in folders if folder not in indices]
    if unknown:
        raise DataError(f"{root}: the class file does not name the folder {shortened(unknown)}")
    return indices


def class_folders(root: str) -> list[str]:
    """Return the names of the folders in ``root`` in natural order. Raises ``DataError`` if they cannot be classes."""
    try:
        with os.scandir(root) as entries:
            listed = [(entry.name, is_folder(entry)) for entry in entries]
    except OSError as error:
        where = error.filename or root
        raise DataError(f"{where}: {error.strerror}; name a folder of class folders that hold images") from error
    folders = sorted((name for name, is_dir in listed if is_dir), key=sorting_key)
    images = sorted(name for name, is_dir in listed if not is_dir and is_image(name))
    if images:
        raise DataError(
            f"{root}: {len(images)} images ({shortened(images, 3)}) lie outside of any class folder; put each into a "
            "folder of its class, or give a list file of 'path label' lines"
        )
    unnamed = [printable(folder) for folder in folders if not is_printable(folder)]
    if unnamed:
        raise DataError(f"{root}: class names are UTF-8, those of {shortened(unnamed)} are not; rename the folders")
    if not folders:
        raise DataError(f"{root}: has no class folders; images are looked for in {os.path.join(root, 'CLASS')}")
    return folders
