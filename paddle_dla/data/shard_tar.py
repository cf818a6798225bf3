"""One tar shard: its samples as a stream, or the position of each. Layout and grouping: webdataset 1.0."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO, Literal

import numpy as np

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import Names, printable
from paddle_dla.storage.regular import MOST_IMAGE, open_regular

# extension of a member -> its role in the sample
ROLES = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "cls": "cls", "json": "json"}
_BLOCK = 512  # block size of a tar in bytes
MOST_LABEL = 2**20  # largest label in bytes: a number, or an object that contains one
# zeros that may follow a tar: it is padded to a whole record, of 10 KiB by default and of 1 MiB at most
_MOST_FILLING = 2**20
_BUFFER = 1 << 16  # bytes per read: a smaller buffer makes more calls, and tarfile copies the rest of a larger one


@dataclass
class SampleFiles:
    """The two members of one sample: the image's bytes, the label's bytes and name."""

    key: str
    image: bytes
    label: bytes
    label_name: str


@dataclass
class Headers:
    """Positions of N samples in their shard. ``images`` and ``labels``: (N, 2) int64, offset and size in bytes.

    ``file``: device and inode of the shard for which they are valid.
    """

    keys: Names
    label_names: Names
    images: np.ndarray
    labels: np.ndarray
    file: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, file: BinaryIO, place: int) -> SampleFiles:
        """Read one sample of the opened shard. Raises ``DataError`` if the file ends too early."""
        key, label_name = self.keys[place], self.label_names[place]
        image, label = (_read_at(file, *part) for part in ((self.images[place], key), (self.labels[place], label_name)))
        return SampleFiles(key, image, label, label_name)


def _read_at(file: BinaryIO, place: np.ndarray, member: str) -> bytes:
    offset, size = place.tolist()
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise _truncated(file.name, member)
    return data


def _truncated(path: str, member: str) -> DataError:
    return DataError(
        f"{path}, member {printable(member)}: the file ends in the middle of it; it is truncated: copy it again"
    )


def split_name(name: str) -> tuple[str, str]:
    """Return ("dir/key", "ext") of a member's name: split at the first dot of its last part, "ext" in lower case."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def _samples(tar: tarfile.TarFile, path: str) -> Iterator[tuple[str, Iterator[tuple[str, str, tarfile.TarInfo]]]]:
    """Yield each key and its neighbouring members (key, role, member), to the end of the file. Raises ``DataError``."""

    def members() -> Iterator[tuple[str, str, tarfile.TarInfo]]:
        last = None
        for member in tar:
            last = member.name
            key, extension = split_name(member.name)
            if extension in ROLES and not key.endswith("/") and key and not member.isdir():
                _check_member(path, member, ROLES[extension])
                yield key, ROLES[extension], member
        _check_end(path, tar.offset, last)

    return groupby(members(), key=itemgetter(0))


def _check_member(path: str, member: tarfile.TarInfo, role: str) -> None:
    """Raise ``DataError`` for a part of a sample that is not a plain file, or implausibly large."""
    where = f"{path}, member {printable(member.name)}"
    if not member.isreg() or member.sparse is not None:
        raise DataError(
            f"{where}: is no plain file but a link, a device or sparse; make the shard anew, links followed "
            "(tar --dereference --hard-dereference)"
        )
    most = MOST_IMAGE if role == "image" else MOST_LABEL
    if member.size > most:
        raise DataError(f"{where}: has {member.size:,} bytes, more than the {most:,} that such a member may have")


def _pair(path: str, names: dict[str, str]) -> tuple[str, str]:
    """Return the roles of image and label. Raises ``DataError`` if one is missing. ``names``: role -> member's name."""
    label = "cls" if "cls" in names else "json"
    if "image" in names and label in names:
        return "image", label
    present, absent = ("image", "label") if "image" in names else (label, "image")
    wanted = [extension for extension, role in ROLES.items() if (role == "image") == (absent == "image")]
    raise DataError(
        f"{path}, member {printable(names[present])}: has no {absent} beside it; a sample is neighbouring members of "
        f"one name, here {printable(split_name(names[present])[0])}.{{{','.join(wanted)}}}"
    )


def _add(path: str, names: dict[str, str], role: str, member: tarfile.TarInfo) -> None:
    if role in names:
        both = f"{printable(names[role])} and {printable(member.name)}"
        raise DataError(f"{path}, members {both}: the same part of one sample twice")
    names[role] = member.name


@contextmanager
def _opened(path: str, mode: Literal["r:", "r|"]) -> Iterator[tuple[BinaryIO, tarfile.TarFile]]:
    """Open a tar for reading and yield its file, too; defects raise a ``DataError`` that names it."""
    try:
        with BufferedReader(open_regular(path)) as file, tarfile.open(path, mode, file, bufsize=_BUFFER) as tar:
            yield file, tar
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: is not a whole, uncompressed tar file ({error}); copy it again, or unpack a compressed one"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def stream_samples(path: str, first: int = 0) -> Generator[SampleFiles, None, None]:
    """Yield the samples of a shard from number ``first`` on, read front to back; earlier ones are skipped.

    Raises ``DataError``, naming shard and member, for a truncated member and for a sample that lacks a part.
    """
    with _opened(path, "r|") as (_, tar):
        for place, (key, members) in enumerate(_samples(tar, path)):
            if place < first:
                continue
            names: dict[str, str] = {}
            data: dict[str, bytes] = {}
            for _, role, member in members:
                _add(path, names, role, member)
                data[role] = _extract(tar, member, path)
            image, label = _pair(path, names)
            yield SampleFiles(key, data[image], data[label], names[label])
            # tarfile keeps every header that it has read
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - typeshed knows getmembers() alone


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    try:
        file = tar.extractfile(member)
        assert file is not None  # _check_member allows only plain files
        data = file.read()
    except tarfile.ReadError as error:
        raise _truncated(path, member.name) from error
    if len(data) < member.size:
        raise _truncated(path, member.name)
    return data


def read_headers(path: str) -> Headers:
    """Return the positions of the samples of a shard, from its headers alone; the images are not read.

    Raises ``DataError``, naming shard and member, for a sample that lacks a part and for a truncated file.
    """
    keys, label_names, images, labels = [], [], [], []
    with _opened(path, "r:") as (file, tar):
        shard = identity(file)
        for key, members in _samples(tar, path):
            names: dict[str, str] = {}
            places = {}
            for _, role, member in members:
                _add(path, names, role, member)
                places[role] = (member.offset_data, member.size)
            image, label = _pair(path, names)
            keys.append(key)
            label_names.append(names[label])
            images.append(places[image])
            labels.append(places[label])
    shape = (len(keys), 2)
    return Headers(
        Names(keys),
        Names(label_names),
        np.array(images, np.int64).reshape(shape),
        np.array(labels, np.int64).reshape(shape),
        shard,
    )


def identity(file: BinaryIO) -> tuple[int, int]:
    """Return device and inode of an open file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _check_end(path: str, end: int, last: str | None) -> None:
    """Check the end of a tar: a block of zeros, and only zeros after it. tarfile stops at whatever looks like that.

    ``end`` is the end of the member ``last``. Raises ``DataError`` if the block is missing, if other data follows
    (another tar, or the rest of one with a hole in it), and for more zeros than fill a record.
    """
    where = f"after member {printable(last)}" if last else "at its start"
    with open_regular(path) as file:
        file.seek(end)
        rest = file.read(_MOST_FILLING + 2 * _BLOCK)
        more = len(file.read(1))
    if len(rest) < _BLOCK or any(rest[:_BLOCK]):
        raise DataError(f"{path}: breaks off {where}: truncated or damaged; copy it again")
    if rest.count(0) < len(rest):
        raise DataError(
            f"{path}: the tar ends {where}, but the file goes on: it is damaged there, or several tars follow each "
            "other; copy it again, or keep each tar in a file of its own"
        )
    if more:
        raise DataError(f"{path}: holds nothing but zeros {where}, too many to end a tar: damaged; copy it again")


def label_of(files: SampleFiles, path: str) -> int:
    """Return the class index in a label member. Raises ``DataError`` naming shard and member."""
    is_json = files.label_name.lower().endswith(".json")
    try:
        label = json.loads(files.label)["label"] if is_json else _number(files.label)
        if isinstance(label, bool) or not isinstance(label, int):
            raise ValueError(f"{label!r} is not a whole number")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        wanted = 'an object with a whole number as "label"' if is_json else "one whole number"
        raise DataError(f"{path}, member {files.label_name}: holds no label, {wanted} ({error})") from error
    return label


def _number(text: bytes) -> int:
    """Parse a whole number; ``int`` alone would also accept ``1_0`` as ten. Raises ``ValueError``."""
    if not text.strip().removeprefix(b"-").isdigit():
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)
