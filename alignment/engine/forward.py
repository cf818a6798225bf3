"""Two tapes and a noise floor -> a result: every output of every layer that both sides have. No framework."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alignment.engine.compare import compare
from alignment.engine.noise import NoiseFloor
from alignment.engine.result import Result, Row, Skipped
from alignment.engine.tape import Record, Tape

REFERENCE, PORT = "torch", "Paddle"


def compare_tapes(title: str, reference: Tape, port: Tape, floor: NoiseFloor) -> Result:
    """Compare ``port`` with ``reference`` call by call; layers pair by their path.

    A layer that only one side has is listed as skipped; a call that only one side makes of a layer that both have
    is a difference.
    """
    result = Result(title, floor.dtype, skipped=[*_one_sided(reference, port)])
    calls = port.by_key()
    for depth, record in enumerate(reference):
        if record.path not in port.layers:
            continue
        twin = calls.pop(record.key, None)
        if twin is None:
            note = f"call {record.call + 1} of this layer is missing in {PORT}"
            result.rows.append(_row(record, depth, _outer(record), np.inf, note))
        else:
            result.rows.extend(_compare_outputs(record, twin, depth, floor))
    for record in calls.values():
        if record.path in reference.layers:
            note = f"call {record.call + 1} of this layer is missing in {REFERENCE}"
            result.rows.append(_row(record, len(reference), _outer(record), np.inf, note))
    return result


def _one_sided(reference: Tape, port: Tape) -> Iterator[Skipped]:
    called = {record.path for record in reference}
    for path, kind in reference.layers.items():
        if path not in port.layers:
            yield Skipped(path, kind, REFERENCE, f"no layer of this name in {PORT}")
        elif path not in called:
            yield Skipped(path, kind, "both", f"not called in {REFERENCE}")
    for path, kind in port.layers.items():
        if path not in reference.layers:
            yield Skipped(path, kind, PORT, f"no layer of this name in {REFERENCE}")


def _compare_outputs(record: Record, twin: Record, depth: int, floor: NoiseFloor) -> Iterator[Row]:
    if len(record.outputs) != len(twin.outputs):
        note = f"{len(twin.outputs)} outputs in {PORT}, {len(record.outputs)} in {REFERENCE}"
        yield _row(record, depth, _outer(record), np.inf, note)
        return
    for index, (expected, actual) in enumerate(zip(record.outputs, twin.outputs)):
        found = compare(expected, actual)
        yield Row(
            layer=record.path,
            twin=twin.path,
            kind=record.kind,
            call=record.call,
            depth=depth,
            leaf=record.leaf,
            shape=expected.shape,
            max_abs=found.max_abs,
            relative=found.relative,
            floor=floor.of(record.key, index),
            allowed=floor.allowed(record.key, index),
            worst=found.worst,
            note=found.mismatch,
        )


def _outer(record: Record) -> tuple[int, ...]:
    return record.outputs[0].shape if record.outputs else ()


def _row(record: Record, depth: int, shape: tuple[int, ...], error: float, note: str) -> Row:
    return Row(
        record.path, record.path, record.kind, record.call, depth, record.leaf, shape, error, error, 0.0, 0.0, note=note
    )
