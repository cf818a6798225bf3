"""``shards.json``: the content of a folder of tar shards, which saves counting it again.

It has no data per sample: ``{"format": 1, "classes": [...] or null, "shards": [{"file", "samples", "bytes"}]}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_dla.data.errors import DataError
from paddle_dla.data.source import shortened
from paddle_dla.storage.atomic import atomic_path
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.regular import read_text

INDEX_NAME = "shards.json"
FORMAT = 1


@dataclass(frozen=True)
class ShardIndex:
    """``samples`` and ``sizes`` (bytes) by file name; ``classes`` as in a source; ``folder`` contains the shards."""

    folder: Path
    samples: dict[str, int]
    sizes: dict[str, int]
    classes: list[str] | None

    def covers(self, paths: Sequence[str]) -> bool:
        """Return whether all of ``paths`` are in the folder and listed."""
        return all(Path(path).parent == self.folder and os.path.basename(path) in self.samples for path in paths)

    def check(self, paths: Sequence[str], whole: bool) -> None:
        """Raise ``DataError`` if a file does not have its listed size or, if ``whole``, a listed file is missing."""
        names = {os.path.basename(path) for path in paths}
        missing = sorted(self.samples.keys() - names) if whole else []
        if missing:
            raise DataError(f"{self.folder}: {INDEX_NAME} lists shards that are not there: {shortened(missing)}")
        for path in paths:
            size, listed = os.path.getsize(path), self.sizes[os.path.basename(path)]
            if size != listed:
                raise DataError(
                    f"{path}: has {size} bytes where {INDEX_NAME} says {listed}: truncated or replaced; copy it again, "
                    f"or remove {INDEX_NAME} to have the shards counted anew"
                )


def read_index(folder: Path) -> ShardIndex | None:
    """Return the index of a folder, ``None`` if there is none. Raises ``DataError`` for an invalid one."""
    path = folder / INDEX_NAME
    try:
        content = json.loads(read_text(path))
        if content["format"] != FORMAT:
            raise DataError(f"{path}: format {content['format']}, this version reads {FORMAT}")
        samples = {_text(shard["file"]): _number(shard["samples"]) for shard in content["shards"]}
        sizes = {_text(shard["file"]): _number(shard["bytes"]) for shard in content["shards"]}
        if len(samples) != len(content["shards"]):
            raise ValueError("it lists a file twice")
        classes = content["classes"] and [_text(name) for name in content["classes"]]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: is no index of shards ({error}); remove it to have the shards counted") from error
    return ShardIndex(folder, samples, sizes, classes or None)


def _number(value: object) -> int:
    """Return a count in the form in which it was written. Raises ``ValueError`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _text(value: object) -> str:
    """Return a name in the form in which it was written. Raises ``ValueError`` for anything else."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no name")
    return value


def write_index(folder: Path, samples: dict[str, int], classes: list[str] | None) -> None:
    """Write ``shards.json`` beside the shards; ``samples`` maps file names to their number of samples."""
    shards = [
        {"file": name, "samples": count, "bytes": os.path.getsize(folder / name)} for name, count in samples.items()
    ]
    content = {"format": FORMAT, "classes": classes, "shards": shards}
    with atomic_path(folder / INDEX_NAME) as part:
        part.write_text(to_json(content, indent=1) + "\n", encoding="utf-8")
