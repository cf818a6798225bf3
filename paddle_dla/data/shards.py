"""Tar shards as a source: webdataset's layout, read front to back, which suits the storage of a cluster.

Neighbouring members whose paths are equal up to the first dot of the file name are one sample: an image (``.jpg .jpeg
.png .webp``) and its label (``.cls``, a number; or ``.json`` with "label"). Other members are ignored. The global index
of a sample is the number of samples in the shards before its own, plus its index there. The number of samples in a
shard is taken from ``shards.json`` beside it (``shard_writer.py``), or counted in its headers once.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Generator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np

from paddle_dla.data.class_names import read_class_names
from paddle_dla.data.errors import DataError
from paddle_dla.data.folder import sorting_key
from paddle_dla.data.shard_index import INDEX_NAME, read_index
from paddle_dla.data.shard_tar import Headers, SampleFiles, identity, label_of, read_headers, stream_samples
from paddle_dla.data.source import Sample, printable, range_of, shortened
from paddle_dla.errors import WrongValue
from paddle_dla.storage.regular import open_regular

MOST_OPEN = 16  # files of one reader
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand_pattern(pattern: str) -> list[str]:
    """Return the paths of ``shard-{000000..000009}.tar`` (ends included, zeros as in the first end), or of a glob."""
    match = _RANGE.search(pattern)
    if match is None:
        is_glob = glob.has_magic(pattern) and not os.path.exists(pattern)
        found = sorted(glob.glob(pattern), key=sorting_key) if is_glob else [pattern]
        if not found:
            raise DataError(f"{pattern}: no file matches")
        return found
    first, last = match.groups()
    if int(first) > int(last):
        raise DataError(f"{pattern}: the range {match.group()} is empty")
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = range(int(first), int(last) + 1)
    return [path for number in numbers for path in expand_pattern(f"{before}{number:0{len(first)}d}{after}")]


class ShardSource:
    """Samples in tar files; ``counts`` are their numbers of samples."""

    sequential = True
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        paths: Sequence[str],
        counts: Sequence[int],
        classes: list[str] | None = None,
        num_classes: int | None = None,
        headers: Sequence[Headers] = (),
    ):
        self.paths = list(paths)
        self.starts = np.cumsum([0, *counts], dtype=np.int64)
        self.classes = classes
        self.num_classes = num_classes
        self.num_samples = int(self.starts[-1])
        self._headers = dict(enumerate(headers))

    def locate(self, index: int) -> tuple[int, int]:
        """Return the shard of a sample, and its index there."""
        if not 0 <= index < self.num_samples:
            raise IndexError(f"sample {index} of {self.num_samples}")
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        return shard, index - int(self.starts[shard])

    def count(self, shard: int) -> int:
        """Return the number of samples in a shard."""
        return int(self.starts[shard + 1] - self.starts[shard])

    def headers(self, shard: int) -> Headers:
        """Return the positions of the samples of a shard; its headers are read on the first call and kept."""
        if shard not in self._headers:
            found = read_headers(self.paths[shard])
            if len(found) != self.count(shard):
                raise miscounted(self.paths[shard], len(found), self.count(shard))
            self._headers[shard] = found
        return self._headers[shard]

    def name(self, index: int) -> str:
        shard, place = self.locate(index)
        return printable(f"{os.path.basename(self.paths[shard])}/{self.headers(shard).keys[place]}")

    def reader(self, rising: bool = False) -> StreamReader | SeekReader:
        return StreamReader(self) if rising else SeekReader(self)

    def as_sample(self, shard: int, files: SampleFiles) -> Sample:
        """Convert the members of a sample. Raises ``DataError`` naming shard and member if they are invalid."""
        path = self.paths[shard]
        label = label_of(files, path)
        if not 0 <= label < (self.num_classes or 2**63):
            limit = (
                "a label is a 64-bit number of 0 or more" if self.num_classes is None else range_of(self.num_classes)
            )
            raise DataError(f"{path}, member {printable(files.label_name)}: label {label} is out of range: {limit}")
        return Sample(printable(f"{os.path.basename(path)}/{files.key}"), label, files.image)

    def shuffled(self, seed: int, epoch: int, together: int = 8) -> np.ndarray:
        """Return a training order, (N,) int64, that keeps to a few shards at a time.

        Shards are shuffled, then the samples within groups of ``together`` shards. If each shard holds only one class,
        that is not enough: write the shards shuffled.
        """
        rng = np.random.default_rng([seed, epoch])
        shards = rng.permutation(len(self.paths))
        samples = [np.arange(*self.starts[shard : shard + 2]) for shard in shards]
        groups = [samples[first : first + together] for first in range(0, len(samples), together)]
        return np.concatenate([rng.permutation(np.concatenate(group)) for group in groups])


class StreamReader:
    """Reads forwards only, each shard as one stream; skipped samples are not kept."""

    def __init__(self, source: ShardSource):
        self._source = source
        self._shard = -1
        self._place = 0
        self._samples = _nothing()

    def sample(self, index: int) -> Sample:
        shard, place = self._source.locate(index)
        if shard != self._shard:
            self.close()
            self._shard, self._place = shard, place
            self._samples = stream_samples(self._source.paths[shard], place)
        if place < self._place:
            raise WrongValue(f"a reader of rising indices was asked for {index} again")
        for files in self._samples:
            self._place += 1
            if self._place > place:
                if self._place == self._source.count(shard):
                    self._finish(shard)
                return self._source.as_sample(shard, files)
        raise miscounted(self._source.paths[shard], self._place, self._source.count(shard))

    def _finish(self, shard: int) -> None:
        """Check the end of a shard after its last sample. Raises ``DataError`` if there are more, or damage."""
        more = sum(1 for _ in self._samples)
        if more:
            raise miscounted(self._source.paths[shard], self._place + more, self._source.count(shard))

    def close(self) -> None:
        """Close the open shard."""
        self._samples.close()
        self._samples = _nothing()


class SeekReader:
    """Reads in any order, by the positions in a shard's headers; recently used shards stay open."""

    def __init__(self, source: ShardSource):
        self._source = source
        self._files: dict[int, BinaryIO] = {}

    def sample(self, index: int) -> Sample:
        shard, place = self._source.locate(index)
        headers = self._source.headers(shard)
        file = self._opened(shard)
        if identity(file) != headers.file:
            raise DataError(f"{file.name}: was replaced while it was read; run the same command again")
        return self._source.as_sample(shard, headers.read(file, place))

    def _opened(self, shard: int) -> BinaryIO:
        file = self._files.pop(shard, None)
        if file is None:
            if len(self._files) == MOST_OPEN:
                self._files.pop(next(iter(self._files))).close()
            file = BufferedReader(open_regular(self._source.paths[shard]))  # until it is the least recently used one
        self._files[shard] = file
        return file

    def close(self) -> None:
        """Close the open shards."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def _nothing() -> Generator[SampleFiles, None, None]:
    yield from ()


def miscounted(path: str, found: int, expected: int) -> DataError:
    """Return the error for a shard whose number of samples differs from its index."""
    return DataError(
        f"{path}: {found} samples were found where {expected} are expected: the file is truncated, damaged or was "
        f"replaced; copy it again, or write {INDEX_NAME} anew (scripts/make_shards.py --index)"
    )


def find_shards(path: str | os.PathLike[str]) -> list[str]:
    """Return the tar files of a file, a pattern, or a folder, in order. Raises ``DataError`` for missing ones."""
    text = os.path.expanduser(os.fspath(path))
    if os.path.isdir(text):
        names = sorted((name for name in os.listdir(text) if name.endswith(".tar")), key=sorting_key)
        if not names:
            raise DataError(f"{text}: has no .tar files")
        return [os.path.join(text, name) for name in names]
    paths = expand_pattern(text)
    missing = [name for name in paths if not os.path.isfile(name)]
    if missing:
        raise DataError(f"{text}: {len(missing)} of {len(paths)} shards are not there: {shortened(missing)}")
    return paths


def open_shards(
    path: str | os.PathLike[str],
    classes: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
) -> ShardSource:
    """Open the samples of one tar, a glob or brace pattern, or a folder of tars.

    ``classes`` is a file of class names; without it the names come from ``shards.json``, if it exists. Raises
    ``DataError`` for shards that are missing or do not match ``shards.json``; without that file, also for any broken
    shard.
    """
    paths = find_shards(path)
    _refuse_twice(paths)
    index = read_index(Path(paths[0]).parent)
    names = None if index is None else index.classes
    if classes is not None:
        names = list(read_class_names(classes).ids)
    if num_classes is None and names is not None:
        num_classes = len(names)
    if index is not None and index.covers(paths):
        index.check(paths, whole=os.path.isdir(path))
        source = ShardSource(paths, [index.samples[os.path.basename(name)] for name in paths], names, num_classes)
        _check_empty(source)
    else:
        headers = [read_headers(name) for name in paths]
        source = ShardSource(paths, [len(found) for found in headers], names, num_classes, headers)
    if source.num_samples == 0:
        raise DataError(f"{path}: has no samples: members NAME.jpg (or .jpeg, .png, .webp) and NAME.cls are looked for")
    source.notes = _left_out(path)
    return source


def _refuse_twice(paths: Sequence[str]) -> None:
    """Raise ``DataError`` for a file that is listed under two names, through a link."""
    reached: dict[tuple[int, int], str] = {}
    for path in paths:
        found = os.stat(path)
        before = reached.setdefault((found.st_dev, found.st_ino), path)
        if before != path:
            raise DataError(
                f"{path} and {before} are the same file, through a link; remove one, or its samples count twice"
            )


def _left_out(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return a message for the user on other files in a folder of shards, such as a compressed shard."""
    if not os.path.isdir(path):
        return ()
    others = sorted(name for name in os.listdir(path) if not name.endswith(".tar") and name != INDEX_NAME)
    return (printable(f"{path}: left out, since they are no .tar: {shortened(others)}"),) if others else ()


def _check_empty(source: ShardSource) -> None:
    """Raise ``DataError`` if a shard that is empty in the index has samples, which would never be read."""
    for shard in range(len(source.paths)):
        if source.count(shard) == 0:
            source.headers(shard)
