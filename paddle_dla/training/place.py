"""Check the output folder of a run before anything is read or written: unused by others, no images in it, writable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from paddle_dla.data.walk import refuse_folder_in
from paddle_dla.storage.atomic import check_regular
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import check_folder
from paddle_dla.storage.regular import open_regular
from paddle_dla.training.checkpoints import found
from paddle_dla.training.log import PICTURE, RECORDS, TABLES
from paddle_dla.training.records import read_records
from paddle_dla.training.resuming import FOLDER

CONFIG = "config.yaml"
MARK = "# Every option as the run used it, by paddle-dla train. The next run into this folder replaces this file.\n"
"""The first line of a ``config.yaml`` that a run wrote; any other file belongs to the user."""


def refuse_place(output: Path, data: Iterable[str | None]) -> None:
    """Raise ``CheckpointError`` if a run could not write to the folder ``output``, or would replace foreign files.

    Raises ``DataError`` if it lies within one of the image trees ``data``.
    """
    for tree in data:
        refuse_folder_in(tree, output, "train.output")
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir():
        raise CheckpointError(f"train.output is {output}, but {there} is a file; name a folder")
    check_folder(output / FOLDER / "epoch", parents=True)
    if output.is_dir():
        records = output / RECORDS.format(0)
        for name in (records.name, *TABLES.values(), PICTURE, CONFIG):
            check_regular(output / name, "the record of a run")
        _refuse_others_files(output, records)


def _refuse_others_files(output: Path, records: Path) -> None:
    """Refuse to replace files that no run wrote: a config without our mark, others without records or checkpoints."""
    names = [CONFIG] if _is_others_config(output / CONFIG) else []
    if next(read_records(records), None) is None and not found(output / FOLDER):
        names += [name for name in (*TABLES.values(), PICTURE) if (output / name).exists()]
    if names:
        raise CheckpointError(
            f"train.output is {output}, which holds {', '.join(names)} that no run has written and this one would "
            "replace; move it, or name another folder"
        )


def _is_others_config(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(MARK)) != MARK.encode()
    except FileNotFoundError:
        return False
