"""A list file, ``path label`` on each line, as a source: PaddleClas's format (``ImageNetDataset``, delimiter space).

The last space or tab of a line ends the path, so paths may contain spaces. Paths are relative to the folder of the
list, or to ``root``. Empty lines and lines that start with ``#`` are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.source import FileSource, range_of, shortened

MOST_DIGITS = 18


def open_list(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> FileSource:
    """The images that a list file names, in its order; ``classes`` is a file of class names, one a line.

    Raises ``DataError``, with file, line number and line, for a line without a path or a whole number at its end and
    for a label that ``num_classes`` (or the class file) excludes; and for image files that are not there.
    """
    path = Path(path).expanduser()
    known = None if classes is None else list(read_class_names(classes).ids)
    if num_classes is None and known is not None:
        num_classes = len(known)
    names, labels = [], []
    for number, line in _lines(path):
        name, label = _parsed(path, number, line, num_classes)
        names.append(name)
        labels.append(label)
    if not names:
        raise DataError(f"{path}: has no line; a list file has 'path label' on each line")
    folder = os.fspath(path.parent if root is None else Path(root).expanduser())
    _check_files(path, folder, names)
    return FileSource(folder, names, np.array(labels, np.int64), known)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                line = line.strip()
                if line and not line.startswith("#"):
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no list file can be read there ({error})") from error


def _parsed(path: Path, number: int, line: str, num_classes: int | None) -> tuple[str, int]:
    where = f"{path}, line {number}: {line!r}"
    parts = line.rsplit(None, 1)
    if len(parts) != 2:
        raise DataError(f"{where} is not 'path label'")
    name, text = parts
    # int() alone would take "1_000" as well, and labels become 64-bit numbers
    if not text.removeprefix("-").isdecimal() or len(text) > MOST_DIGITS:
        raise DataError(f"{where} does not end with a class index, a whole number")
    label = int(text)
    if label < 0 or (num_classes is not None and label >= num_classes):
        limit = "a label is 0 or more" if num_classes is None else range_of(num_classes)
        raise DataError(f"{where}: label {label} is out of range: {limit}")
    return name, label


def _check_files(path: Path, root: str, names: list[str]) -> None:
    """Each folder is listed once: a million files are not asked for one by one."""
    present: dict[str, set[str]] = {}
    missing = []
    for name in names:
        path_of_file = os.path.join(root, name)
        folder, file = os.path.split(path_of_file)
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        # a system that ignores case has files that it does not list
        if file not in present[folder] and not (present[folder] and os.path.isfile(path_of_file)):
            missing.append(name)
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} files are not in {root}: {shortened(missing)}; if they lie "
            "elsewhere, name that folder as root"
        )
