"""One tar shard: its samples as a stream, or where each of them lies. Layout and grouping: webdataset 1.0."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import BinaryIO

import numpy as np

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import Names

# extension of a member -> what it is of its sample
ROLES = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image", "cls": "cls", "json": "json"}
_BLOCK = 512  # a tar is made of blocks of this many bytes
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
    """Where N samples lie in their shard. ``images`` and ``labels``: (N, 2) int64, offset and size in bytes."""

    keys: Names
    label_names: Names
    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, file: BinaryIO, place: int) -> SampleFiles:
        """One sample of the opened shard; raises ``DataError`` where the file ends too early."""
        key, label_name = self.keys[place], self.label_names[place]
        image = _read_at(file, *self.images[place].tolist(), key)
        return SampleFiles(key, image, _read_at(file, *self.labels[place].tolist(), label_name), label_name)


def _read_at(file: BinaryIO, offset: int, size: int, member: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise _truncated(file.name, member)
    return data


def _truncated(path: str, member: str) -> DataError:
    return DataError(f"{path}, member {member}: the file ends in the middle of it; it is truncated: copy it again")


def split_name(name: str) -> tuple[str, str]:
    """("dir/key", "ext") of a member's name, split at the first dot of its last part, the extension in lower case."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return folder + slash + key, extension.lower()


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, Iterator[tuple[str, str, tarfile.TarInfo]]]]:
    """Key -> its neighbouring members, as (key, role, member)."""

    def members() -> Iterator[tuple[str, str, tarfile.TarInfo]]:
        for member in tar:
            key, extension = split_name(member.name)
            if member.isfile() and extension in ROLES and not key.endswith("/") and key:
                yield key, ROLES[extension], member

    return groupby(members(), key=itemgetter(0))


def _pair(path: str, names: dict[str, str]) -> tuple[str, str]:
    """The roles of image and label; raises ``DataError`` where one is missing. ``names``: role -> member's name."""
    label = "cls" if "cls" in names else "json"
    if "image" in names and label in names:
        return "image", label
    present, absent = ("image", "label") if "image" in names else (label, "image")
    wanted = [extension for extension, role in ROLES.items() if (role == "image") == (absent == "image")]
    raise DataError(
        f"{path}, member {names[present]}: has no {absent} beside it; a sample is neighbouring members of one name, "
        f"here {split_name(names[present])[0]}.{{{','.join(wanted)}}}"
    )


def _add(path: str, names: dict[str, str], role: str, member: tarfile.TarInfo) -> None:
    if role in names:
        raise DataError(f"{path}, members {names[role]} and {member.name}: the same part of one sample twice")
    names[role] = member.name


@contextmanager
def _opened(path: str, mode: str) -> Iterator[tarfile.TarFile]:
    """A tar opened for reading; what it lacks becomes a ``DataError`` that names it."""
    try:
        with tarfile.open(path, mode, bufsize=_BUFFER) as tar:
            yield tar
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
    with _opened(path, "r|") as tar:
        for place, (key, members) in enumerate(_samples(tar)):
            if place < first:
                continue
            names: dict[str, str] = {}
            data: dict[str, bytes] = {}
            for _, role, member in members:
                _add(path, names, role, member)
                data[role] = _extract(tar, member, path)
            image, label = _pair(path, names)
            yield SampleFiles(key, data[image], data[label], names[label])
            tar.members = []  # tarfile keeps every header that it has seen


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> bytes:
    try:
        data = tar.extractfile(member).read()
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
    with _opened(path, "r:") as tar:
        for key, members in _samples(tar):
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
        _check_end(path, tar.members[-1] if tar.members else None)
    shape = (len(keys), 2)
    return Headers(
        Names(keys),
        Names(label_names),
        np.array(images, np.int64).reshape(shape),
        np.array(labels, np.int64).reshape(shape),
    )


def _check_end(path: str, last: tarfile.TarInfo | None) -> None:
    """A whole tar ends with a block of zeros; where it is missing, tarfile stops without a word."""
    end = last.offset_data + -(-last.size // _BLOCK) * _BLOCK if last else 0
    with open(path, "rb") as file:
        file.seek(end)
        block = file.read(_BLOCK)
    if len(block) < _BLOCK or any(block):
        raise DataError(f"{path}: breaks off after member {last and last.name}: truncated or damaged; copy it again")


def label_of(files: SampleFiles, path: str) -> int:
    """The class index that a label member holds; raises ``DataError`` naming shard and member."""
    is_json = files.label_name.lower().endswith(".json")
    try:
        label = json.loads(files.label)["label"] if is_json else int(files.label)
        if isinstance(label, bool) or not isinstance(label, int):
            raise ValueError(f"{label!r} is not a whole number")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        wanted = 'an object with a whole number as "label"' if is_json else "one whole number"
        raise DataError(f"{path}, member {files.label_name}: holds no label, {wanted} ({error})") from error
    return label
