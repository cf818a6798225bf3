"""Compare the gradients of two tapes: of every layer's outputs, of the inputs and of every parameter. No framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from alignment.engine.judging.echo import difference, in_layout
from alignment.engine.judging.error import Difference, compare
from alignment.engine.judging.limits import NoiseFloor
from alignment.engine.judging.outputs import why_undecided
from alignment.engine.judging.rows import UNMEASURED, tensor_row
from alignment.engine.pairing.points import Point, plain_point
from alignment.engine.records.store import Ref
from alignment.engine.records.tape import ROOT, Key, Record, Slot, Tape
from alignment.engine.result import GRADIENT, INPUT, PARAMETER, Row

UNASKED = "a gradient arrives, and none in the reference (detached there)"


@dataclass(frozen=True)
class ParameterGradient:
    """The gradient of one parameter of the port and the reference's.

    ``name`` and ``twin`` are the parameter's names, ``actual`` is None where none arrived in the port, ``ref`` is the
    handle of ``expected``'s noise. ``scale`` is the largest magnitude of the reference's whole tensor, of which
    ``expected`` may be a part: rounding in the whole affects every part.
    """

    name: str
    twin: str
    expected: np.ndarray
    ref: Ref
    actual: np.ndarray | None
    scale: float = 0.0

    def measured(self, floor: NoiseFloor) -> tuple[Difference, str]:
        """Return the difference, and a note on what cannot be measured."""
        expected, ref = self.expected, self.ref
        if self.actual is None:
            found, note = _absent(expected, floor, ref)
        else:
            found = in_layout(expected, self.actual, floor.allowed_backward(ref))[1]
            note = found.mismatch
        if self.scale and np.isfinite(found.max_abs):
            found = replace(found, relative=found.max_abs / self.scale)
        return floor.scaled(found, ref), note


def gradient_rows(
    reference: Tape, port: Tape, floor: NoiseFloor, calls: Mapping[Key, Key],
    points: Mapping[Key, Point] | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Yield rows of outputs in the order of the backward pass, last layer first, then of the model's inputs.

    ``calls`` and ``points`` as in ``output_rows``.
    """
    theirs = port.by_key()
    for depth, record in reversed([*enumerate(reference)]):
        call = calls.get(record.key)
        twin = None if call is None else theirs.get(call)
        if twin is None:
            continue
        point = (points or {}).get(record.key) or plain_point(record)
        slots = record.output_grads if point.own else point.seeds
        passed_on = {ref.index for ref in record.input_refs()}
        for ref, slot, actual in zip(point.outputs, slots, twin.output_grads):
            # the gradient of a tensor that is returned unchanged includes its other uses
            if slot is not None and slot.ref is not None and ref.index not in passed_on:
                yield _row(reference, slot.ref, port, actual, floor, record, twin.path, depth, GRADIENT)
    yield from _inputs(reference, port, floor)


def _inputs(reference: Tape, port: Tape, floor: NoiseFloor) -> Iterator[Row]:
    ours, theirs = (tape.by_key().get((ROOT, 0)) for tape in (reference, port))
    if ours is None or theirs is None:
        return
    for number, (slot, actual) in enumerate(zip(ours.input_grads, theirs.input_grads)):
        if slot is not None and slot.ref is not None:
            record = Record(f"(input {number})", "input", 0, True, None)
            yield _row(reference, slot.ref, port, actual, floor, record, record.path, 0, INPUT)
        elif slot is not None and actual is not None and actual.ref is not None and np.any(port.get(actual.ref)):
            yield _unasked(f"(input {number})", f"(input {number})", "input", actual.ref.shape, INPUT)


def unasked_rows(gradients: Iterable[tuple[str, str, np.ndarray]]) -> Iterator[Row]:
    """Yield a row for each parameter, ``(name, twin, gradient)``, that only the port differentiates."""
    return (_unasked(name, twin, "Parameter", array.shape, PARAMETER) for name, twin, array in gradients)


def _unasked(name: str, twin: str, kind: str, shape: tuple[int, ...], direction: str) -> Row:
    """Return the row of a gradient that the reference does not compute, as behind a ``detach``."""
    return tensor_row(name, twin, kind, 0, shape, UNMEASURED, (0.0, 0.0), direction=direction, note=UNASKED)


def _row(
    reference: Tape, expected: Ref, port: Tape, actual: Slot | None, floor: NoiseFloor,
    record: Record, twin: str, depth: int, direction: str,
) -> Row:  # fmt: skip
    if actual is not None and actual.ref is not None:
        found, note = difference(reference, expected, port, actual.ref, floor.allowed_backward(expected)), ""
    else:
        found, note = _absent(reference.get(expected), floor, expected)
    found = floor.scaled(found, expected)
    return _gradient_row(record, twin, depth, found, expected, floor, direction, note or found.mismatch)


def _absent(array: np.ndarray, floor: NoiseFloor, ref: Ref) -> tuple[Difference, str]:
    """Measure a gradient that did not arrive: that is right if the reference's is zero or only rounding."""
    found = compare(array, np.zeros_like(array))
    nothing = not np.any(array) or floor.scaled(found, ref).relative <= floor.allowed_backward(ref)
    return found, "" if nothing else "no gradient arrived"


def _gradient_row(
    record: Record, twin: str, depth: int, found: Difference, ref: Ref, floor: NoiseFloor, direction: str, note: str
) -> Row:
    limits = floor.of(ref), floor.allowed_backward(ref)
    row = tensor_row(record.path, twin, record.kind, depth, ref.shape, found, limits, direction=direction,
                     note=note, call=record.call, leaf=record.leaf)  # fmt: skip
    return replace(row, undecided=floor.undecided(ref))


def parameter_rows(gradients: Iterator[ParameterGradient], floor: NoiseFloor) -> Iterator[Row]:
    """Yield a row for the gradient of each parameter that the reference differentiates."""
    for gradient in gradients:
        expected, ref = gradient.expected, gradient.ref
        found, note = gradient.measured(floor)
        record = Record(gradient.name, "Parameter", 0, True, None)
        row = _gradient_row(record, gradient.twin, 0, found, ref, floor, PARAMETER, note)
        yield replace(row, shape=expected.shape, undecided=why_undecided(expected) or row.undecided)
