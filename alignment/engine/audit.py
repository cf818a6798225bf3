"""What is known of a pair of layers beside their outputs: settings, weights, and the buffers that a run leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from alignment.engine.borrowed import Borrowed
from alignment.engine.explaining.causes import WeightIndex, state_cause, weight_cause, with_rounded_momentum
from alignment.engine.judging.error import compare
from alignment.engine.judging.settings import Given, SettingDifference, setting_differences
from alignment.engine.locating.culprits import StateFault, WeightFault
from alignment.engine.pairing.calls import Matching
from alignment.engine.records.tape import Record, Tape, is_ref
from alignment.engine.result import FORWARD, Result
from alignment.engine.sides.model import join
from alignment.engine.sides.paddle.borrow import paddle_tensors
from alignment.engine.sides.paddle.probe import prober as paddle_prober
from alignment.engine.sides.settings import disagreements
from alignment.engine.sides.torch.probe import prober as torch_prober
from alignment.engine.sides.torch.probe import roles
from convert.key_map import twin_name

Tensors = Mapping[str, Mapping[str, np.ndarray]]
"""Parameters and buffers by layer and name."""
After = Mapping[str, tuple[Mapping[str, np.ndarray], float]]
"""By layer: the buffers that a run left, by their names in Paddle, and the error that rounding explains in them."""


def settings_compared(models: Borrowed, matching: Matching, tape: Tape) -> dict[str, list[SettingDifference]]:
    """By layer of the reference, every setting of its twins that is spelled otherwise and what that changes.

    Layers that are set alike and took inputs of the same shapes are probed once.
    """
    calls = {record.path: record for record in reversed(list(tape))}
    known: dict[str, list[SettingDifference]] = {}
    found: dict[str, list[SettingDifference]] = {}
    for path, twin in matching.pairs():
        settings = models.reference_settings[path], models.port_settings[twin]
        if path in calls and not disagreements(*settings, first_shape(calls[path])):
            continue
        inputs = _inputs_of(tape, calls.get(path))
        key = repr((settings, inputs))
        if key not in known:
            layer, port = models.reference[path], models.port[twin]
            known[key] = setting_differences(*settings, inputs, roles(layer), torch_prober(layer), paddle_prober(port))
        fields = [difference.field for difference in found.get(path, [])]
        more = [difference for difference in known[key] if difference.field not in fields]
        if more:
            found.setdefault(path, []).extend(more)
    return found


def setting_faults(compared: Mapping[str, Sequence[SettingDifference]]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """``{layer: {field: (reference, port)}}`` for every setting that changes what a layer computes."""
    faults = {
        path: {found.field: (found.reference, found.port) for found in differences if found.fault}
        for path, differences in compared.items()
    }
    return {path: fields for path, fields in faults.items() if fields}


def setting_remarks(compared: Mapping[str, Sequence[SettingDifference]]) -> dict[str, list[str]]:
    """``{words: layers}`` of settings that are spelled otherwise and do the same."""
    remarks: dict[str, list[str]] = {}
    for path, differences in compared.items():
        for found in differences:
            if not found.fault:
                remarks.setdefault(found.words, []).append(path)
    return remarks


def first_shape(record: Record) -> tuple[int, ...] | None:
    """The shape of the first tensor that a call took."""
    refs = record.input_refs()
    return refs[0].shape if refs else None


def _inputs_of(tape: Tape, record: Record | None) -> list[Given]:
    """What a layer was given, empty where it took anything but tensors in order, or was never called."""
    if record is None or record.kwargs or not all(is_ref(argument) for argument in record.args):
        return []
    refs = record.input_refs()
    if any(np.dtype(ref.dtype).kind not in "fiu" for ref in refs):
        return []
    integers = [np.dtype(ref.dtype).kind in "iu" and 0 not in ref.shape for ref in refs]
    return [Given(ref.shape, int(tape.get(ref).max()) if whole else None) for ref, whole in zip(refs, integers)]


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
