"""Append-only record files: one JSON object per line, flushed to the system before the next step. No framework.

A process killed at any moment leaves at most one half-written line, which is dropped when the file is opened again. The
CSV tables hold the same records; they are rewritten from the records at that time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, TypedDict

from paddle_dla.storage.atomic import atomic_path, check_regular, write_error
from paddle_dla.storage.csv_text import write_rows
from paddle_dla.storage.json_record import Count, RecordError, check_record, parse_json
from paddle_dla.storage.json_text import to_json
from paddle_dla.storage.regular import open_regular
from paddle_dla.training.errors import FolderGoneError
from paddle_dla.training.hold import is_in_place

Record = dict[str, Any]


class _Kind(TypedDict):
    kind: str


class _Shown(TypedDict, total=False):
    loss: float | None
    lr: float | None


class _Step(_Shown):
    step: Count


class _Start(TypedDict):
    resumed_at: Count


_KINDS = {"train": _Step, "validation": _Step, "start": _Start}
"""Required keys of a record of each kind; other keys are displayed but not used in computations."""


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of ``path``; none if there is no file. Invalid lines, as left by a kill, are skipped."""
    if not path.exists():
        return
    with TextIOWrapper(BufferedReader(open_regular(path)), encoding="utf-8", errors="replace") as file:
        for line in file:
            record = _parsed(line)
            if record is not None:
                yield record


def _parsed(line: str) -> Record | None:
    try:
        record = parse_json(line)
        check_record(record, _Kind)
        check_record(record, _KINDS.get(record["kind"], _Kind))
    except RecordError:
        return None
    return record


class _Appended:
    """A file that is only appended to; each call writes at once."""

    def __init__(self, path: Path):
        self._path, self._file = path, io.FileIO(path, "a")

    def add(self, text: str) -> None:
        left = text.encode("utf-8")
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise write_error(self._path, error) from error

    @property
    def in_place(self) -> bool:
        """Whether the appended bytes can be read at the path."""
        return is_in_place(self._path, self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Records:
    """Append the records of a run to ``path``; records of a repeated step replace the earlier ones.

    Records of the kinds ``repeatable`` have a ``step``, the number of updates made so far. Opening drops those after
    ``resumed_at``, the number of updates at which the run starts. All other records are history and are kept.

    Raises ``CheckpointError`` if the file cannot be written, ``FolderGoneError`` if it was removed or moved.
    """

    def __init__(self, path: Path, resumed_at: int, repeatable: Iterable[str] = ("train", "validation")):
        check_regular(path, "a record that grows")
        self.path, self._repeatable = path, frozenset(repeatable)
        self._replace(record for record in read_records(path) if self._step(record) <= resumed_at)

    def _step(self, record: Record) -> float:
        """Return the step of a record; records of history come before every step."""
        return record.get("step", -math.inf) if record["kind"] in self._repeatable else -math.inf

    def _replace(self, records: Iterable[Record]) -> None:
        """Replace the content of the file by these records, whole or not at all, and open it for appending."""
        self._last = dict.fromkeys(self._repeatable, -math.inf)
        with atomic_path(self.path) as part, open(part, "w", encoding="utf-8") as file:
            for record in records:
                file.write(_line(record))
                self._remember(record)
        self._file = _Appended(self.path)

    def _remember(self, record: Record) -> None:
        if record["kind"] in self._repeatable:
            self._last[record["kind"]] = max(self._last[record["kind"]], self._step(record))

    def append(self, record: Record) -> bool:
        """Write one record, which has a ``kind``. Returns whether it replaced earlier records of a repeated step."""
        kind, step = record["kind"], self._step(record)
        again = kind in self._repeatable and step <= self._last[kind]
        if again:
            self._file.close()
            self._replace(old for old in read_records(self.path) if old["kind"] != kind or self._step(old) < step)
        self._file.add(_line(record))
        if not self._file.in_place:
            raise FolderGoneError(self.path)
        self._remember(record)
        return again

    def close(self) -> None:
        """Close the file; everything has been written already."""
        self._file.close()


class Table:
    """The records of one ``kind`` as CSV: a header, then one row per record.

    The file is rewritten for a new column, a repeated step, and if an editor has replaced the file.

    Raises ``CheckpointError`` if the file cannot be written.
    """

    def __init__(self, path: Path, records: Records, kind: str):
        check_regular(path, "a table that grows")
        self._path, self._records, self._kind = path, records, kind
        self._rewrite()

    def _rewrite(self) -> None:
        columns: dict[str, None] = {}
        for record in self._shown():
            columns.update(dict.fromkeys(record))
        self._columns = [name for name in columns if name != "kind"]
        with atomic_path(self._path) as part, open(part, "w", encoding="utf-8") as file:
            file.write(_csv(self._columns) if self._columns else "")
            file.writelines(map(self._row, self._shown()))
        self._file = _Appended(self._path)

    def _shown(self) -> Iterator[Record]:
        return (record for record in read_records(self._records.path) if record["kind"] == self._kind)

    def _row(self, record: Record) -> str:
        return _csv(record.get(name) for name in self._columns)

    def append(self, record: Record, again: bool = False) -> None:
        """Add the row of a ``record`` written by ``Records.append``; ``again`` is the result of that call."""
        if again or not self._file.in_place or not record.keys() - {"kind"} <= set(self._columns):
            self.close()
            self._rewrite()
        else:
            self._file.add(self._row(record))

    def close(self) -> None:
        """Close the file; everything has been written already."""
        self._file.close()


def _line(record: Record) -> str:
    return to_json(record, ensure_ascii=False) + "\n"


def _csv(values: Iterable[object]) -> str:
    buffer = io.StringIO()
    write_rows(buffer, [list(values)])
    return buffer.getvalue()
