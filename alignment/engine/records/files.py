"""A tape on disk: ``tensors.safetensors`` and ``tape.json`` in a folder. No framework; nothing in it is executed.

What two machines recorded, one with torch only and one with Paddle only, a third compares with neither.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from alignment.engine.records.store import Budget, Ref, Store
from alignment.engine.records.tape import Key, Record, Slot, Tape

FORMAT = 2
TENSORS, INDEX = "tensors.safetensors", "tape.json"


class TapeError(ValueError):
    """A folder that holds no readable tape; the message says what is wrong and what to do."""


def save_tape(
    tape: Tape, folder: str | os.PathLike[str], facts: dict[str, str], errors: Mapping[int, float] | None = None
) -> None:  # fmt: skip
    """Write outputs, gradients and buffers of ``tape``; ``facts`` say what ran. The folder is made where needed.

    ``errors`` are the relative errors of a run in float32, by the index of the stored tensor.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
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
    if errors is not None:
        content["float32_errors"] = {key: errors.get(int(key[1:]), 0.0) for key in arrays}
    save_file(arrays, target / TENSORS)
    (target / INDEX).write_text(json.dumps(content), encoding="utf-8")


def load_tape(folder: str | os.PathLike[str]) -> tuple[Tape, dict[str, str], dict[int, float] | None]:
    """The tape in ``folder``, its facts, and the errors in float32 by the index of the stored tensor, if it has any.

    Raises ``TapeError`` where there is no tape, or it is damaged.
    """
    source = Path(folder)
    try:
        content = json.loads((source / INDEX).read_text(encoding="utf-8"))
        arrays = load_file(source / TENSORS)
    except FileNotFoundError as error:
        raise TapeError(f"{source} holds no tape: {error.filename} is missing; record one with --dump") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise TapeError(f"{source} holds a damaged tape: {error}; record it again") from error
    if content.get("format") != FORMAT:
        raise TapeError(f"{source} has format {content.get('format')!r}; this version reads {FORMAT}")
    tape = Tape(content["layers"], Store(Budget(sum(a.nbytes for a in arrays.values()))))
    refs = {key: tape.store.put(array) for key, array in arrays.items()}
    tape.records = [_record(entry, refs) for entry in content["records"]]
    tape.param_grads = {key: refs[name] for key, name in content["param_grads"].items()}
    tape.buffers = {key: refs[name] for key, name in content["buffers"].items()}
    errors = content.get("float32_errors")
    return tape, content["facts"], errors and {refs[key].index: value for key, value in errors.items()}


def _record(entry: dict[str, Any], refs: dict[str, Ref]) -> Record:
    parent: Key | None = tuple(entry["parent"]) if entry["parent"] else None
    return Record(
        entry["path"],
        entry["kind"],
        entry["call"],
        entry["leaf"],
        parent,
        args=tuple(refs[name] for name in entry["inputs"]),
        outputs=tuple(refs[name] for name in entry["outputs"]),
        output_grads=[None if name is None else Slot(refs[name]) for name in entry["output_grads"]],
    )
