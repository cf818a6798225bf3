"""What is known of a pair of layers beside their outputs: settings, weights, and the buffers that a run leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alignment.engine.borrowed import Borrowed
from alignment.engine.explaining.causes import WeightIndex, state_cause, weight_cause, with_rounded_momentum
from alignment.engine.judging.error import compare
from alignment.engine.locating.culprits import StateFault, WeightFault
from alignment.engine.pairing.calls import Matching
from alignment.engine.records.tape import Tape
from alignment.engine.result import FORWARD, Result
from alignment.engine.sides.model import join
from alignment.engine.sides.paddle.borrow import paddle_tensors
from alignment.engine.sides.settings import disagreements
from convert.key_map import twin_name

Tensors = Mapping[str, Mapping[str, np.ndarray]]
"""Parameters and buffers by layer and name."""
After = Mapping[str, tuple[Mapping[str, np.ndarray], float]]
"""By layer: the buffers that a run left, by their names in Paddle, and the error that rounding explains in them."""


def setting_faults(models: Borrowed, matching: Matching) -> dict[str, dict[str, tuple[Any, Any]]]:
    """``{layer: {field: (reference, port)}}`` for every setting that differs."""
    found: dict[str, dict[str, tuple[Any, Any]]] = {}
    for path, twin in matching.pairs():
        if fields := disagreements(models.reference_settings[path], models.port_settings[twin]):
            found[path] = found.get(path, {}) | fields
    return found


def weight_faults(models: Borrowed, matching: Matching, initial: Tensors) -> Iterator[WeightFault]:
    """Parameters and buffers of the port that are not the reference's ``initial`` ones."""
    index = WeightIndex({join(path, name): array for path, own in initial.items() for name, array in own.items()})
    for path, twin in matching.twins.items():
        theirs = paddle_tensors(models.port[twin])
        for name, array in initial[path].items():
            other = theirs.get(twin_name(name))
            if other is None:
                yield WeightFault(path, name, np.inf, "missing in Paddle")
                continue
            if other.shape != array.shape and other.size == array.size:
                other = other.reshape(array.shape)
            found = compare(array, other)
            if found.max_abs:
                yield WeightFault(path, name, found.relative, found.mismatch, weight_cause(array, other, index))


def left_in_chain(models: Borrowed, port: Tape, matching: Matching, result: Result) -> After:
    """The buffers that the chained run left, of layers whose outputs are still the reference's."""

    def buffers(twin: str) -> dict[str, np.ndarray]:
        names = {name: join(twin, name) for name in paddle_tensors(models.port[twin])}
        return {name: port.get(port.buffers[full]) for name, full in names.items() if full in port.buffers}

    rows = [row for row in result.rows if row.direction == FORWARD and row.aligned]
    return {row.layer: (buffers(row.twin), row.allowed) for row in rows if matching.twins.get(row.layer) == row.twin}


def state_faults(
    models: Borrowed, tape: Tape, after: After, wrong: set[tuple[str, str]], initial: Tensors
) -> Iterator[StateFault]:
    """Buffers that were right (not in ``wrong``) and that the run left otherwise than the reference's."""
    for path, (buffers, allowed) in after.items():
        for name, before in initial[path].items():
            full, actual = join(path, name), buffers.get(twin_name(name))
            if full not in tape.buffers or actual is None or (path, name) in wrong:
                continue
            expected = tape.get(tape.buffers[full])
            momentum = models.reference_settings[path].fields.get("momentum")
            # a port may keep the momentum in float64, or in float32 as Paddle's own kernel does
            rounded = with_rounded_momentum(before.astype(np.float64), expected, momentum)
            if min(compare(expected, actual).relative, compare(rounded, actual).relative) <= allowed:
                continue
            cause = state_cause(before.astype(np.float64), expected, actual, momentum)
            yield StateFault(path, name, compare(expected, actual).relative, cause)
