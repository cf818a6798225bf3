"""Compare the settings of paired layers: which are spelled differently, and what that changes."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np

from alignment.engine.borrowed import PORT, REFERENCE, Borrowed
from alignment.engine.judging.settings import Given, SettingDifference, setting_differences
from alignment.engine.pairing.calls import Matching
from alignment.engine.records.tape import ROOT, Record, Tape, is_ref
from alignment.engine.sides.settings import DROPOUT, disagreements, resolved
from alignment.engine.sides.torch.probe import roles


def settings_compared(models: Borrowed, matching: Matching, tape: Tape) -> dict[str, list[SettingDifference]]:
    """Return, by the reference's layer, every setting that its twin spells differently, and what that changes.

    Pairs with the same settings and input shapes are probed once.
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
            probes = REFERENCE.prober(layer), PORT.prober(port)
            known[key] = setting_differences(*settings, inputs, roles(layer), *probes)
        fields = [difference.field for difference in found.get(path, [])]
        more = [difference for difference in known[key] if difference.field not in fields]
        if more:
            found.setdefault(path, []).extend(more)
    return found


def setting_faults(compared: Mapping[str, Sequence[SettingDifference]]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return ``{layer: {field: (reference, port)}}`` of every setting that changes what a layer computes."""
    faults = {
        path: {found.field: (found.reference, found.port) for found in differences if found.fault}
        for path, differences in compared.items()
    }
    return {path: fields for path, fields in faults.items() if fields}


def setting_remarks(compared: Mapping[str, Sequence[SettingDifference]]) -> dict[str, list[str]]:
    """Return ``{words: layers}`` of settings that are spelled differently and have the same effect."""
    remarks: dict[str, list[str]] = {}
    for path, differences in compared.items():
        for found in differences:
            if not found.fault:
                remarks.setdefault(found.words, []).append(path)
    return remarks


def stray_modes(
    models: Borrowed, matching: Matching, called: Container[str], training: bool
) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return unpaired dropouts of the port that are in another mode than the comparison, by the layer around them.

    A comparison switches dropout off, so no value shows such a fault: it would drop in evaluation, or never drop.
    """
    faults: dict[str, dict[str, tuple[Any, Any]]] = {}
    back = {twin: path for path, twin in matching.twins.items()}
    for path in matching.only_port:
        settings = resolved(models.port_settings[path])
        if path in called and settings.category == DROPOUT and settings.fields["training"] != training:
            outer = path
            while outer != ROOT and outer not in back:
                outer = outer.rpartition(".")[0] or ROOT
            faults.setdefault(back[outer], {})[f"training of {path}"] = (training, not training)
    return faults


def first_shape(record: Record) -> tuple[int, ...] | None:
    """Return the shape of the first tensor that a call took."""
    refs = record.input_refs()
    return refs[0].shape if refs else None


def _inputs_of(tape: Tape, record: Record | None) -> list[Given]:
    """Return a layer's inputs; empty if it was never called or took anything but positional tensors."""
    if record is None or record.kwargs or not all(is_ref(argument) for argument in record.args):
        return []
    refs = record.input_refs()
    if any(np.dtype(ref.dtype).kind not in "fiu" for ref in refs):
        return []
    integers = [np.dtype(ref.dtype).kind in "iu" and 0 not in ref.shape for ref in refs]
    return [Given(ref.shape, int(tape.get(ref).max()) if whole else None) for ref, whole in zip(refs, integers)]
