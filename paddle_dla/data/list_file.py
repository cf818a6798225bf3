"""A list file, ``path label`` on each line, as a source: PaddleClas's format (``ImageNetDataset``, delimiter space).

The last space or tab of a line ends the path, so paths may contain spaces. Paths are relative to the folder of the
list, or to ``root``. Empty lines are skipped. A line that starts with ``#`` is a sample if it names an existing file,
else a comment.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np

from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.source import FileSource, printable, range_of, shortened
from paddle_dla.storage.regular import open_regular

MOST_DIGITS = 18
MOST_LINE = 2**13
"""Largest line in bytes: twice the longest path of Linux."""


def open_list(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> FileSource:
    """Open the images named in a list file, in its order; ``classes`` is a file of class names, one per line.

    Raises ``DataError``, with file, line number and line, for a line without a path or without a whole number at its
    end, for a label that ``num_classes`` (or the class file) excludes, and for missing image files.
    """
    path = Path(path).expanduser()
    known = None if classes is None else list(read_class_names(classes).ids)
    if num_classes is None and known is not None:
        num_classes = len(known)
    files = _Files(os.fspath(path.parent if root is None else Path(root).expanduser()))
    names, labels, missing, comments = [], [], [], 0
    for number, line in _lines(path):
        if line.startswith("#") and not files.has(line.rsplit(None, 1)[0]):
            comments += 1
            continue
        name, label = _parsed(path, number, line, num_classes)
        names.append(name)
        labels.append(label)
        if not files.has(name):
            missing.append(printable(name))
    if not names:
        raise DataError(f"{path}: has no line; a list file has 'path label' on each line")
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(names)} files are not in {files.root}: {shortened(missing)}; if they lie "
            "elsewhere, name that folder as root"
        )
    return FileSource(files.root, names, np.array(labels, np.int64), known, _notes(path, names, comments))


def _notes(path: Path, names: list[str], comments: int) -> list[str]:
    notes = [f"{path}: {comments} lines that begin with # are left out as comments"] if comments else []
    again = len(names) - len(set(names))
    return [*notes, f"{path}: {again} lines name a file that is named before; it counts each time"] if again else notes


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line; bytes that are not UTF-8 are kept, as in file names."""
    try:
        with BufferedReader(open_regular(path)) as file:
            number = 0
            while line := file.readline(MOST_LINE):
                number += 1
                if len(line) == MOST_LINE:
                    raise DataError(f"{path}, line {number}: has {MOST_LINE} bytes or more; is this a list file?")
                text = line.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape").strip()
                if text:
                    yield number, text
    except OSError as error:
        raise DataError(f"{path}: no list file can be read there ({error.strerror or error})") from error


def _parsed(path: Path, number: int, line: str, num_classes: int | None) -> tuple[str, int]:
    where = f"{path}, line {number}: {line!r}"
    parts = line.rsplit(None, 1)
    if len(parts) != 2:
        raise DataError(f"{where} is not 'path label'")
    name, text = parts
    # int() alone would also accept "1_000", and labels become 64-bit numbers
    if not text.removeprefix("-").isdecimal() or len(text) > MOST_DIGITS:
        raise DataError(f"{where} does not end with a class index, a whole number")
    label = int(text)
    if label < 0 or (num_classes is not None and label >= num_classes):
        limit = "a label is 0 or more" if num_classes is None else range_of(num_classes)
        raise DataError(f"{where}: label {label} is out of range: {limit}")
    return name, label


class _Files:
    """The files below ``root``. Each folder is listed once, instead of one system call for each of a million files."""

    def __init__(self, root: str):
        self.root = root
        self._present: dict[str, set[str]] = {}

    def has(self, name: str) -> bool:
        """Return whether a file of this name, relative to the root, exists."""
        path = os.path.join(self.root, name)
        folder, file = os.path.split(path)
        if folder not in self._present:
            self._present[folder] = self._listed(folder)
        present = self._present[folder]
        # a case-insensitive system has files that it does not list under this name
        return bool(file) and (file in present or (bool(present) and os.path.isfile(path)))

    def _listed(self, folder: str) -> set[str]:
        try:
            return set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero byte
            return set()
        except OSError as error:
            raise DataError(f"{printable(folder)}: cannot be looked into: {error.strerror}") from error
