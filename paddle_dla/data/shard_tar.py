"""One tar shard: its samples as a stream, or where each of them lies. Layout and grouping: webdataset 1.0."""

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

# extension of a member -> what it is of its sample
ROLES = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "cls": "cls", "json": "json"}
_BLOCK = 512  # a tar is made of blocks of this many bytes
MOST_LABEL = 2**20  # bytes of a label: a number, or an object that holds one
# zeros that may follow a tar: it is filled up to a whole record, of 10 KiB by default and of 1 MiB at most
_MOST_FILLING = 2**20
_BUFFER = 1 << 16  # read at once: a smaller one makes more calls, and tarfile copies what is left of a larger one


@dataclass
class SampleFiles:
    """The two members of one sample: the image's bytes, the label's bytes and name."""

    key: str
    image: bytes
    label: bytes
    label_name: str


@dataclass
class Headers:
    """Where N samples lie in their shard. ``images`` and ``labels``: (N, 2) int64, offset and size in bytes.

    ``file``: device and inode of the shard that this is true of.
    """

    keys: Names
    label_names: Names
    images: np.ndarray
    labels: np.ndarray
    file: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, file: BinaryIO, place: int) -> SampleFiles:
        """One sample of the opened shard; raises ``DataError`` where the file ends too early."""
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
    """("dir/key", "ext") of a member's name, split at the first dot of its last part, the extension in lower case."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def _samples(tar: tarfile.TarFile, path: str) -> Iterator[tuple[str, Iterator[tuple[str, str, tarfile.TarInfo]]]]:
    """Key -> its neighbouring members, as (key, role, member), to the end of the file. Raises ``DataError``."""

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
    """Raises ``DataError`` for a part of a sample that is no plain file, or larger than any honest one."""
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
    """The roles of image and label; raises ``DataError`` where one is missing. ``names``: role -> member's name."""
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
    """A tar opened for reading, and its file; what it lacks becomes a ``DataError`` that names it."""
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
    """The samples of a shard from number ``first`` on, read front to back; those before it are passed over.

    Raises ``DataError``, naming shard and member, for a member that is cut off and for a sample that lacks a part.
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
            # tarfile keeps every header that it has seen
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue] - typeshed knows getmembers() alone


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    try:
        file = tar.extractfile(member)
        assert file is not None  # _check_member has passed plain files alone
        data = file.read()
    except tarfile.ReadError as error:
        raise _truncated(path, member.name) from error
    if len(data) < member.size:
        raise _truncated(path, member.name)
    return data


def read_headers(path: str) -> Headers:
    """Where the samples of a shard lie, from its headers alone; the images are not read.

    Raises ``DataError``, naming shard and member, for a sample that lacks a part and for a file that is cut off.
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
    """Device and inode of an open file."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def _check_end(path: str, end: int, last: str | None) -> None:
    """A whole tar ends with a block of zeros, and zeros alone follow; tarfile stops at whatever looks like that.

    ``end`` is where the member ``last`` ends. Raises ``DataError`` where the block is missing, where there is more
    behind it (another tar, or the rest of one with a hole in it), and for more zeros than fill a record.
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
    """The class index that a label member holds; raises ``DataError`` naming shard and member."""
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
    """A whole number as it is written; ``int`` alone would take ``1_0`` for ten as well. Raises ``ValueError``."""
    if not text.strip().removeprefix(b"-").isdigit():
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text)
