"""Store a tape as ``tensors.safetensors`` and ``tape.json`` in a folder. No framework; reading executes no code.

Two machines, one with torch only and one with Paddle only, record the tapes; a third compares them without either.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import Key, Record, Slot, Tape
from paddle_dla.errors import WrongValue
from paddle_dla.storage.atomic import atomic_paths, check_writable, write_error
from paddle_dla.storage.errors import CheckpointError
from paddle_dla.storage.folders import check_folder
from paddle_dla.storage.json_record import Count, FormatError, RecordError, Sha256, Within, read_record
from paddle_dla.storage.json_text import json_sha256
from paddle_dla.storage.manifest import FileRecord, describe_file
from paddle_dla.storage.shown import shown
from paddle_dla.storage.tensors import read_safetensors, write_safetensors

FORMAT = 4
MOST_NESTED = 200
"""The deepest allowed nesting of calls. The deepest networks have a dozen levels; readers of a tape use recursion."""
TENSORS, INDEX = "tensors.safetensors", "tape.json"


class _Call(TypedDict):
    path: str
    kind: str
    call: Count
    leaf: bool
    parent: list[Any] | None
    inputs: list[str]
    outputs: list[str]
    output_grads: list[str | None]


Size = Annotated[float, Within(0, sys.float_info.max)]


class _Optional(TypedDict, total=False):
    float32_errors: dict[str, Size | None]
    float32_leaks: dict[str, Size | None]


class _Index(_Optional):
    format: int
    facts: dict[str, str]
    layers: dict[str, str]
    records: list[_Call]
    param_grads: dict[str, str]
    buffers: dict[str, str]
    tensors: FileRecord
    sha256: Sha256


@dataclass(frozen=True)
class Measured:
    """Measurements of the reference by the index of the stored tensor.

    ``errors`` are the largest float32 errors; ``leaks`` is the change of gradients by constants that Paddle keeps in
    float32.
    """

    errors: Mapping[int, float]
    leaks: Mapping[int, float] = field(default_factory=dict)


class TapeError(WrongValue):
    """A folder without a readable tape; the message states what is wrong and what to do."""


def save_tape(
    tape: Tape, folder: str | os.PathLike[str], facts: dict[str, str], measured: Measured | None = None
) -> None:  # fmt: skip
    """Write outputs, gradients and buffers of ``tape``; ``facts`` describe the run. The folder is created if needed.

    Only the reference's side is ``measured``. Raises ``CheckpointError`` where the system refuses; the folder's
    previous content is then kept.
    """
    target = Path(folder)
    arrays: dict[str, np.ndarray] = {}

    def name(ref: Ref) -> str:
        key = f"t{ref.index}"
        if key not in arrays:
            arrays[key] = np.ascontiguousarray(tape.get(ref))
        return key

    def slots(values: list[Slot | None]) -> list[str | None]:
        return [None if slot is None or slot.ref is None else name(slot.ref) for slot in values]

    records = [
        {
            "path": record.path,
            "kind": record.kind,
            "call": record.call,
            "leaf": record.leaf,
            "parent": record.parent,
            "inputs": [name(ref) for ref in record.input_refs()],
            "outputs": [name(ref) for ref in record.output_refs()],
            "output_grads": slots(record.output_grads),
        }
        for record in tape
    ]
    content = {
        "format": FORMAT,
        "facts": facts,
        "layers": dict(tape.layers),
        "records": records,
        "param_grads": {key: name(ref) for key, ref in tape.param_grads.items()},
        "buffers": {key: name(ref) for key, ref in tape.buffers.items()},
    }
    if measured is not None:
        content["float32_errors"] = _by_name(measured.errors, arrays)
        content["float32_leaks"] = _by_name(measured.leaks, arrays)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(target, error) from error
    with atomic_paths(target / TENSORS, target / INDEX) as (tensors, index):
        write_safetensors(tensors, arrays)
        content["tensors"] = describe_file(tensors)
        content["sha256"] = json_sha256(content)
        index.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def check_dump(folder: str | os.PathLike[str], *beside: str) -> None:
    """Raise ``CheckpointError`` if a tape and files ``beside`` it could not be written to ``folder``."""
    if not Path(folder).is_dir():
        check_folder(folder, parents=True)
        return
    for name in (TENSORS, INDEX, *beside):
        check_writable(Path(folder, name))


def _by_name(sizes: Mapping[int, float], arrays: Collection[str]) -> dict[str, float | None]:
    """Return sizes by name; ``None`` where the run overflowed and nothing was measured."""
    found = {key: sizes.get(int(key[1:]), 0.0) for key in arrays}
    return {key: size if math.isfinite(size) else None for key, size in found.items()}


def _by_index(sizes: Mapping[str, float | None], refs: Mapping[str, Ref]) -> dict[int, float]:
    return {refs[key].index: math.inf if size is None else size for key, size in sizes.items()}


def load_tape(folder: str | os.PathLike[str]) -> tuple[Tape, dict[str, str], Measured | None]:
    """Load the tape in ``folder``, its facts, and the measurements, if it is the reference's.

    Raises ``TapeError`` where there is no tape, or it is damaged.
    """
    source = Path(folder)
    try:
        content = read_record(source / INDEX, _Index, FORMAT)
        if content.pop("sha256") != json_sha256(content):
            raise RecordError("is not what was written: it was edited or damaged")
        if describe_file(source / TENSORS) != content["tensors"]:
            raise RecordError(f"does not belong to {TENSORS}")
        arrays = {key: tensor.raw for key, tensor in read_safetensors(source / TENSORS).items()}
        tape, refs = _tape(content, arrays)
        sizes = [content.get(name) for name in ("float32_errors", "float32_leaks")]
        measured = None if sizes[0] is None else Measured(*(_by_index(found or {}, refs) for found in sizes))
        return tape, content["facts"], measured
    except FileNotFoundError as error:
        raise TapeError(f"{source} holds no tape: {error.filename} is missing; record one with --output") from None
    except FormatError as error:
        raise TapeError(f"{source / INDEX} {error}; record it again") from error
    except (OSError, CheckpointError, RecordError) as error:
        raise TapeError(f"{source} holds a damaged tape: {INDEX} {error}; record it again") from error


def _tape(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[Tape, _Refs]:
    """Build the tape and its tensors' handles. Raises ``RecordError`` where the calls are inconsistent."""
    tape = Tape(content["layers"], Store(Budget(sum(array.nbytes for array in arrays.values()))))
    for array in arrays.values():
        tape.store.put(array)
    refs = _Refs(zip(arrays, tape.store.refs))
    tape.records = [_record(entry, refs) for entry in content["records"]]
    tape.param_grads = {key: refs[name] for key, name in content["param_grads"].items()}
    tape.buffers = {key: refs[name] for key, name in content["buffers"].items()}
    _refuse_loops(tape)
    return tape, refs


class _Refs(dict[str, Ref]):
    """The handles of the stored tensors, by their names in the file."""

    def __missing__(self, name: str) -> Ref:
        raise RecordError(f"names the tensor '{shown(name)}', which is not there")


def _refuse_loops(tape: Tape) -> None:
    """Raise ``RecordError`` for two calls of one name, and for calls that contain each other or nest too deeply."""
    parents = {record.key: record.parent for record in tape}
    if len(parents) != len(tape):
        raise RecordError("has a call twice")
    for key in parents:
        depth, outer = 0, parents[key]
        while outer is not None and depth <= MOST_NESTED:
            depth, outer = depth + 1, parents.get(outer)
        if depth > MOST_NESTED:
            raise RecordError(f"has calls that are within each other, or more than {MOST_NESTED} deep")


def _record(entry: Mapping[str, Any], refs: _Refs) -> Record:
    return Record(
        entry["path"],
        entry["kind"],
        entry["call"],
        entry["leaf"],
        _key(entry["parent"]),
        args=tuple(refs[name] for name in entry["inputs"]),
        outputs=tuple(refs[name] for name in entry["outputs"]),
        output_grads=[None if name is None else Slot(refs[name]) for name in entry["output_grads"]],
    )


def _key(parent: Sequence[Any] | None) -> Key | None:
    if parent is None:
        return None
    if len(parent) != 2 or type(parent[0]) is not str or type(parent[1]) is not int:
        raise RecordError("names a call that is none")
    return parent[0], parent[1]
