"""The interface of a source of samples, which the loader uses, and the source whose samples are files.

A source is pickled into every worker once. Its facts about each sample are therefore kept in arrays and in one block of
text (``Names``), never in one Python object for each of a million images.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, overload

import numpy as np

from paddle_dla.data.errors import ImageError
from paddle_dla.storage.regular import MOST_IMAGE, read_regular
from paddle_dla.storage.shown import shown


class Sample(NamedTuple):
    """One undecoded image. ``label`` is its class index, -1 if the source has none."""

    name: str
    label: int
    data: bytes


class Reader(Protocol):
    """Reads samples in one process. ``sample`` raises ``ImageError`` for a bad file, ``DataError`` for a bad source."""

    def sample(self, index: int) -> Sample: ...

    def close(self) -> None: ...


class Source(Protocol):
    """Samples numbered 0 to ``num_samples - 1``, the same on every machine.

    ``classes`` are the names of the class indices, if known. ``notes`` are messages for the user on what was found, a
    sentence each. ``sequential`` means that reading in rising order is much cheaper than in any other: such a source is
    split into runs of neighbours.
    """

    classes: list[str] | None
    num_samples: int
    sequential: bool
    notes: tuple[str, ...]

    def name(self, index: int) -> str:
        """Return the name of the sample in reports: a path relative to the root, or ``shard.tar/key``."""
        ...

    def reader(self, rising: bool = False) -> Reader:
        """Return a reader; with ``rising``, indices must be requested in rising order."""
        ...


def iterate(source: Source) -> Iterator[tuple[int, str, int, bytes]]:
    """Yield all samples in order: (index, name, label, bytes)."""
    reader = source.reader(rising=True)
    try:
        for index in range(source.num_samples):
            name, label, data = reader.sample(index)
            yield index, name, label, data
    finally:
        reader.close()


class Names(Sequence[str]):
    """A list of strings in two blocks of memory: a million of them pickle as fast as they copy."""

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"name {index} of {len(self)}")
        index = index % len(self)
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]])


class FileSource:
    """Samples that are files below ``root``; any order costs the same.

    ``names``: paths relative to ``root``; ``labels``: (N,) int64 class indices, -1 for none; ``notes``: messages for
    the user on what was found.
    """

    sequential = False

    def __init__(
        self,
        root: str,
        names: Iterable[str],
        labels: np.ndarray,
        classes: list[str] | None,
        notes: Sequence[str] = (),
    ):
        self.root = root
        self.notes = tuple(map(printable, notes))
        self.names = Names(names)
        self.labels = np.asarray(labels, np.int64)
        self.classes = classes
        self.num_samples = len(self.names)

    def name(self, index: int) -> str:
        return printable(self.names[index])

    def path(self, index: int) -> str:
        """Return the path of the file of a sample."""
        return os.path.join(self.root, self.names[index])

    def read(self, index: int) -> bytes:
        """Read a file. Raises ``ImageError`` if it is missing, too large, or cannot be read."""
        try:
            return read_regular(self.path(index), MOST_IMAGE)
        except OSError as error:
            raise ImageError(f"{printable(self.path(index))}: cannot be read: {error.strerror or error}") from error

    def sample(self, index: int) -> Sample:
        """Return one sample; see ``Reader``."""
        return Sample(self.name(index), int(self.labels[index]), self.read(index))

    def reader(self, rising: bool = False) -> Reader:
        return self

    def close(self) -> None:
        """Does nothing: no file stays open between two samples."""


def printable(name: str) -> str:
    """A file's name as text that any file and terminal takes: bytes that are no UTF-8 become ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_printable(name: str) -> bool:
    """Return whether a file's name is UTF-8."""
    return printable(name) == name


def range_of(num_classes: int) -> str:
    """Return the range of possible labels for messages."""
    return f"with {num_classes} classes a label is 0 to {num_classes - 1}"


def shortened(items: Sequence[str], most: int = 5) -> str:
    """Return the first items of many, and their number."""
    return ", ".join(map(shown, items[:most])) + (f", ... ({len(items)} in all)" if len(items) > most else "")
