"""Write any source as tar shards in webdataset's layout; image bytes are unchanged, equal sources give equal bytes."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paddle_dla.data.errors import DataError
from paddle_dla.data.folders import new_folder
from paddle_dla.data.shard_index import write_index
from paddle_dla.data.shard_tar import ROLES
from paddle_dla.data.source import Reader, Source

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


def write_shards(
    source: Source,
    folder: str | os.PathLike[str],
    samples_per_shard: int = 1000,
    order: Sequence[int] | np.ndarray | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """Write ``folder/shard-000000.tar`` and so on, and ``shards.json``; returns the file names.

    Samples keep their order, or are put into ``order`` (training data should be shuffled: readers keep to a few shards
    at a time). A key is ``{place:08d}_{file name}``. ``progress`` is called with the number of samples just written.
    Raises ``DataError`` for a folder that is not empty and for a sample without a label. The folder appears when all of
    it is written.
    """
    if samples_per_shard < 1:
        raise DataError(f"a shard has at least 1 sample, not {samples_per_shard}")
    indices = range(source.num_samples) if order is None else np.asarray(order)
    counts: dict[str, int] = {}
    with new_folder(folder) as part:
        reader = source.reader(rising=order is None)
        try:
            for number, first in enumerate(range(0, len(indices), samples_per_shard)):
                name = f"shard-{number:06d}.tar"
                part_of_it = indices[first : first + samples_per_shard]
                _write_shard(part / name, reader, first, part_of_it)
                counts[name] = len(part_of_it)
                progress(counts[name])
        finally:
            reader.close()
        write_index(part, counts, source.classes)
    return list(counts)


def _write_shard(path: Path, reader: Reader, first: int, indices: Sequence[int] | np.ndarray) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for place, index in enumerate(indices, first):
            sample = reader.sample(int(index))
            if sample.label < 0:
                raise DataError(f"{sample.name}: has no label, which a shard must hold")
            key = _key(place, sample.name)
            _add(tar, f"{key}.cls", str(sample.label).encode())
            _add(tar, f"{key}.{_extension(sample.name, sample.data)}", sample.data)


def _key(place: int, name: str) -> str:
    """Return a key that is unique by its number, without dots: readers cut off the key at the first dot."""
    stem = os.path.splitext(os.path.basename(name))[0]
    return f"{place:08d}_{stem.replace('.', '_')}"


def _extension(name: str, data: bytes) -> str:
    """Return the file's own extension; if shards have no images with it, the one for its first bytes."""
    extension = os.path.splitext(name)[1][1:].lower()
    if ROLES.get(extension) == "image":
        return extension
    return next((known for start, known in _SIGNATURES.items() if data.startswith(start)), "jpg")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member without data of this machine or time: time 0, owner 0, mode 644."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
