"""Gradients of two tapes -> rows: of every layer's outputs and of every parameter. No framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from alignment.engine.compare import compare
from alignment.engine.layout import laid_out
from alignment.engine.noise import BITS, MARGIN
from alignment.engine.result import Row
from alignment.engine.store import Ref
from alignment.engine.tape import Key, Record, Slot, Tape

# Paddle keeps some constants of its backward kernels in float32 also in float64 (2e-8 relative, measured); layers on
# the way back pass such an error on and may enlarge it. A mistake in a backward pass is larger by far: a gradient that
# is scaled, cut off or summed otherwise is off by a good part of itself.
CONSTANTS = 2.0**-20


def compare_gradients(
    reference: Tape,
    rounded: Tape,
    port: Tape,
    pairs: Mapping[Key, Key],
    parameters: Mapping[str, tuple[str, str]],
    partial: frozenset[str],
) -> Iterator[Row]:
    """Rows in the order of the backward pass, last layer first; then parameters, by ``{torch name: (layer, name)}``.

    ``rounded`` is the reference in float32, whose distance from ``reference`` gives the floor. ``pairs`` and
    ``partial`` as in ``compare_tapes``.
    """
    calls, noisy, inside = port.by_key(), rounded.by_key(), reference.children()
    for depth, record in reversed([*enumerate(reference)]):
        twin = calls.get(pairs.get(record.key))
        if twin is None or (record.path in partial and inside[record.key]):
            continue
        passed_on = {ref.index for ref in record.input_refs()}
        slots = zip(record.output_refs(), record.output_grads, noisy[record.key].output_grads, twin.output_grads)
        for ref, exact, noise, actual in slots:
            # a tensor that is returned as it came has the gradient of whatever else uses it, too
            if exact is not None and exact.ref is not None and ref.index not in passed_on:
                yield _row(reference, exact.ref, rounded, noise, port, actual, record, twin.path, depth)
    for name, (_, twin_name) in parameters.items():
        if name in reference.param_grads:
            record = Record(name, "Parameter", 0, True, None)
            noise, actual = Slot(rounded.param_grads.get(name)), Slot(port.param_grads.get(twin_name))
            expected = reference.param_grads[name]
            yield _row(reference, expected, rounded, noise, port, actual, record, twin_name, 0, "parameter gradient")


def _row(
    reference: Tape, expected: Ref, rounded: Tape, noise: Slot | None, port: Tape, actual: Slot | None,
    record: Record, twin: str, depth: int, direction: str = "gradient",
) -> Row:  # fmt: skip
    array = reference.get(expected)
    found = compare(array, _like(array, _array(port, actual)))
    floor = compare(array, _like(array, _array(rounded, noise))).relative * 2.0 ** (BITS["float32"] - BITS["float64"])
    floor = max(floor if np.isfinite(floor) else 0.0, 2.0 ** -BITS["float64"])
    return Row(
        layer=record.path,
        twin=twin,
        kind=record.kind,
        call=record.call,
        depth=depth,
        leaf=record.leaf,
        shape=array.shape,
        max_abs=found.max_abs,
        relative=found.relative,
        floor=floor,
        allowed=max(MARGIN["float64"] * floor, CONSTANTS),
        worst=found.worst,
        note="" if actual is not None and actual.ref is not None else _absent(array),
        direction=direction,
    )


def _array(tape: Tape, slot: Slot | None) -> np.ndarray | None:
    return None if slot is None or slot.ref is None else tape.get(slot.ref)


def _like(array: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """``other`` in the layout of ``array``; zeros where no gradient arrived."""
    return np.zeros_like(array) if other is None else laid_out(other, array.shape)


def _absent(array: np.ndarray) -> str:
    return "no gradient arrived" if np.any(array) else ""
