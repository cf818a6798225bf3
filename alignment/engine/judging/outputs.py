"""Two tapes and a noise floor -> a result: every output of every layer that both sides have. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from alignment.engine.judging.echo import difference
from alignment.engine.judging.noise import NoiseFloor
from alignment.engine.judging.rows import measured, unmeasured
from alignment.engine.pairing.calls import numbered
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Key, Record, Tape
from alignment.engine.result import Result, Row, Skipped

REFERENCE, PORT = "torch", "Paddle"


def compare_tapes(
    title: str,
    reference: Tape,
    port: Tape,
    floor: NoiseFloor,
    pairs: Mapping[Key, Key] | None = None,
    partial: frozenset[str] = frozenset(),
) -> Result:
    """Compare ``port`` with ``reference`` call by call.

    ``pairs`` maps calls of the reference to calls of the port; without it layers pair by their path, and those that
    one side lacks are listed as skipped. A call in it that only one side makes is a difference.
    ``partial`` are layers of the reference whose twin stands for their own computation only, without inner layers.
    """
    result = Result(title, floor.dtype)
    if pairs is None:
        common = {path: path for path in reference.layers if path in port.layers}
        pairs = numbered(common, (record.key for record in reference), (record.key for record in port))
        result.skipped = [*_one_sided(reference, port)]
    calls, inside = port.by_key(), reference.children()
    names = {twin: path for (path, _), twin in pairs.items()}
    for depth, record in enumerate(reference):
        if record.key not in pairs:
            continue
        twin = calls.pop(pairs[record.key], None)
        if twin is None:
            note = f"call {record.call + 1} of this layer is missing in {PORT}"
            result.rows.append(unmeasured(record, pairs[record.key][0], depth, note))
            continue
        refs = reference.own(record, inside[record.key])[0] if record.path in partial else record.output_refs()
        result.rows.extend(_compare_outputs(reference, record, refs, port, twin, depth, floor))
    for record in calls.values():
        if record.key in names:
            note = f"call {record.call + 1} of this layer is missing in {REFERENCE}"
            result.rows.append(unmeasured(record, record.path, len(reference), note, names[record.key]))
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


def _compare_outputs(
    reference: Tape,
    record: Record,
    outputs: Sequence[Ref],
    port: Tape,
    twin: Record,
    depth: int,
    floor: NoiseFloor,
) -> Iterator[Row]:
    twin_outputs = twin.output_refs()
    if len(outputs) != len(twin_outputs):
        note = f"{len(twin_outputs)} outputs in {PORT}, {len(outputs)} in {REFERENCE}"
        yield unmeasured(record, twin.path, depth, note)
        return
    for expected, actual in zip(outputs, twin_outputs):
        # what the model itself returns has one shape; between layers a flattened tensor is the same tensor
        found = difference(reference, expected, port, actual, strict=record.path == ROOT)
        limits = floor.of(expected), floor.allowed(expected)
        yield measured(record, twin.path, depth, found, expected.shape, limits, note=found.mismatch)
