"""Compare every output of every call that both sides have. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from alignment.engine.judging.echo import difference
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.judging.rows import measured, unmeasured
from alignment.engine.pairing.points import Point, plain_point
from alignment.engine.records.store import Ref
from alignment.engine.records.structure import places, structure_differences
from alignment.engine.records.tape import ROOT, Key, Record, Tape, is_ref
from alignment.engine.result import Row, Skipped

REFERENCE, PORT = "torch", "Paddle"
KINDS = {"f": "a floating-point tensor", "c": "a complex tensor", "b": "a boolean tensor",
         "i": "an integer tensor", "u": "an integer tensor"}  # fmt: skip


def same_names(reference: Tape, port: Tape) -> tuple[dict[Key, Key], list[Skipped]]:
    """Pair calls by the paths of their layers, with calls that one side lacks; list layers of one side only."""
    common = [path for path in reference.layers if path in port.layers]
    made = {record.key for record in [*reference, *port]}
    calls = {key: key for path in common for key in sorted(key for key in made if key[0] == path)}
    return calls, [*_one_sided(reference, port)]


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


def output_rows(
    reference: Tape,
    port: Tape,
    floor: NoiseFloor,
    calls: Mapping[Key, Key],
    points: Mapping[Key, Point] | None = None,
) -> Iterator[Row]:
    """Yield a row for each tensor that a paired call returns, in the order of execution.

    ``calls`` maps calls of the reference to calls of the port; a call that only one side makes is a difference.
    ``points`` defines what is compared of a call, if not simply its outputs.
    """
    theirs = port.by_key()
    for depth, record in enumerate(reference):
        if record.key not in calls:
            continue
        twin = theirs.pop(calls[record.key], None)
        if twin is None:
            note = f"call {record.call + 1} of this layer is missing in {PORT}"
            yield unmeasured(record, calls[record.key][0], depth, note)
        elif record.path == ROOT:
            yield from _root(reference, record, port, twin, depth, floor)
        else:
            point = (points or {}).get(record.key) or plain_point(record)
            yield from _of_call(reference, point, port, twin, depth, floor)
    names = {twin: key[0] for key, twin in calls.items()}
    for record in theirs.values():
        if record.key in names:
            note = f"call {record.call + 1} of this layer is missing in {REFERENCE}"
            yield unmeasured(record, record.path, len(reference), note, names[record.key])


def _of_call(
    reference: Tape, point: Point, port: Tape, twin: Record, depth: int, floor: NoiseFloor
) -> Iterator[Row]:  # fmt: skip
    record, theirs = point.record, twin.output_refs()
    if len(point.outputs) != len(theirs):
        note = f"{len(theirs)} outputs in {PORT}, {len(point.outputs)} in {REFERENCE}"
        yield unmeasured(record, twin.path, depth, note)
        return
    for expected, actual in zip(point.outputs, theirs):
        yield _row(reference, record, expected, port, twin, actual, depth, floor, floor.allowed(expected))


def _root(
    reference: Tape, record: Record, port: Tape, twin: Record, depth: int, floor: NoiseFloor
) -> Iterator[Row]:  # fmt: skip
    """Yield the rows of the model's output: its structure first, then every tensor at its place, in its own shape."""
    for words in structure_differences(record.outputs, twin.outputs, is_ref, _what):
        yield unmeasured(record, twin.path, depth, words)
    ours, theirs = dict(places(record.outputs, is_ref)), dict(places(twin.outputs, is_ref))
    if ours and all(0 in ref.shape for ref in ours.values()):
        yield unmeasured(record, twin.path, depth, "the output has no elements: nothing can be compared")
    for place, expected in ours.items():
        if place in theirs:
            yield _row(reference, record, expected, port, twin, theirs[place], depth, floor, None, place)
    if ours and theirs and not ours.keys() & theirs.keys() and len(ours) == len(theirs):
        # the nesting differs, which is reported; the numbers are still compared
        for (place, expected), actual in zip(ours.items(), theirs.values()):
            yield _row(reference, record, expected, port, twin, actual, depth, floor, None, place)


def _what(ref: Ref) -> str:
    return KINDS.get(np.dtype(ref.dtype).kind, f"a tensor of {ref.dtype}")


def _row(
    reference: Tape, record: Record, expected: Ref, port: Tape, twin: Record, actual: Ref, depth: int,
    floor: NoiseFloor, limit: float | None, place: str = "",
) -> Row:  # fmt: skip
    found = floor.scaled(difference(reference, expected, port, actual, limit), expected)
    row = measured(record, twin.path, depth, found, expected.shape, floor.limits(expected), note=found.mismatch)
    row = replace(row, undecided=floor.undecided(expected))
    if record.path == ROOT:
        row = replace(row, place=place, undecided=why_undecided(reference.get(expected)) or row.undecided)
    return row


def why_undecided(array: np.ndarray) -> str:
    """Return why a value of the reference cannot judge the port, i.e. where it is NaN; empty if it can."""
    missing = int(np.isnan(array).sum()) if array.dtype.kind in "fc" else 0
    return f"{REFERENCE}'s own value is NaN in {missing} of {array.size} elements" if missing else ""
