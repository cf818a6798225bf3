"""Gradients of two tapes -> rows: of every layer's outputs and of every parameter. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from alignment.engine.judging.echo import difference
from alignment.engine.judging.error import compare
from alignment.engine.judging.noise import NoiseFloor
from alignment.engine.judging.rows import measured
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import Key, Record, Slot, Tape
from alignment.engine.result import GRADIENT, PARAMETER, Row

# Paddle keeps some constants of its backward kernels in float32 also in float64 (2e-8 relative, measured); layers on
# the way back pass such an error on and may enlarge it. A mistake in a backward pass is larger by far: a gradient that
# is scaled, cut off or summed otherwise is off by a good part of itself.
CONSTANTS = 2.0**-20


def compare_gradients(
    reference: Tape,
    port: Tape,
    floor: NoiseFloor,
    pairs: Mapping[Key, Key],
    parameters: Mapping[str, tuple[str, str]],
    partial: frozenset[str],
) -> Iterator[Row]:
    """Rows in the order of the backward pass, last layer first; then parameters, by ``{torch name: (layer, name)}``.

    ``pairs`` and ``partial`` as in ``compare_tapes``.
    """
    calls, inside = port.by_key(), reference.children()
    for depth, record in reversed([*enumerate(reference)]):
        twin = calls.get(pairs.get(record.key))
        if twin is None or (record.path in partial and inside[record.key]):
            continue
        passed_on = {ref.index for ref in record.input_refs()}
        for ref, slot, actual in zip(record.output_refs(), record.output_grads, twin.output_grads):
            # a tensor that is returned as it came has the gradient of whatever else uses it, too
            if slot is not None and slot.ref is not None and ref.index not in passed_on:
                yield _row(reference, slot.ref, port, actual, floor, record, twin.path, depth, GRADIENT)
    for name, (_, twin_name) in parameters.items():
        if name in reference.param_grads:
            record = Record(name, "Parameter", 0, True, None)
            expected, actual = reference.param_grads[name], Slot(port.param_grads.get(twin_name))
            yield _row(reference, expected, port, actual, floor, record, twin_name, 0, PARAMETER)


def _row(
    reference: Tape, expected: Ref, port: Tape, actual: Slot | None, floor: NoiseFloor,
    record: Record, twin: str, depth: int, direction: str,
) -> Row:  # fmt: skip
    arrived = actual is not None and actual.ref is not None
    if arrived:
        found, note = difference(reference, expected, port, actual.ref), ""
    else:
        array = reference.get(expected)
        found, note = compare(array, np.zeros_like(array)), "no gradient arrived" if np.any(array) else ""
    limits = floor.of(expected), max(floor.allowed(expected), CONSTANTS)
    return measured(record, twin, depth, found, expected.shape, limits, direction, note)
