"""Derive the key map of two models from names, structure, order of calls and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from alignment.engine.borrowed import PORT, REFERENCE, PaddleLayer, TorchModule
from alignment.engine.records.tape import ROOT, Tape
from convert.matching.derive import Proposal, excused, propose
from convert.matching.differences import could_be
from convert.matching.key_map import AmbiguousMatch, KeyMap
from convert.matching.layers import Layer, read_all_layers


def derived_map(
    given: str | Mapping[str, str] | KeyMap, torch_module: TorchModule, paddle_layer: PaddleLayer, reference: Tape,
    port: Tape,
) -> KeyMap:  # fmt: skip
    """Return ``given`` if it is a ``KeyMap``, else a derived map that contains the given pairs.

    The tapes supply the order of calls. Raises ``AmbiguousMatch`` where a layer with weights has several possible
    twins, and ``ValueError`` for any string but ``auto``.
    """
    if isinstance(given, KeyMap):
        return given
    if isinstance(given, str) and given != "auto":
        raise ValueError(f"key_map must be 'auto', a mapping or a KeyMap, got {given!r}")
    known = {} if isinstance(given, str) else dict(given)
    ours = _in_order(read_all_layers(torch_module), reference)
    theirs = _in_order(read_all_layers(paddle_layer), port)
    proposal = propose(ours, theirs, known)
    if proposal.doubts:
        held = REFERENCE.own_arrays(torch_module).arrays, PORT.own_arrays(paddle_layer).arrays
        settled = {key: _by_values(proposal, key, twins, *held) for key, *twins in proposal.doubts}
        proposal = propose(ours, theirs, known | {key: twin for key, twin in settled.items() if twin})
    left, right = proposal.left()
    unclear = [key for key, *_ in proposal.doubts] + [item.key for item in left if could_be(item, right)]
    if unclear:
        raise AmbiguousMatch("layers have several possible twins; name the right ones in key_map:", unclear)
    return excused(proposal.key_map())


def _by_values(
    proposal: Proposal, key: str, twins: Sequence[str], arrays: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
) -> str:  # fmt: skip
    """Return the one of ``twins`` that holds the values of ``key`` in any layout; empty if none or several do."""
    wanted = [np.sort(arrays[part.name], axis=None) for part in proposal.torch[key].parts.values()]
    held = {
        twin: [np.sort(theirs[part.name], axis=None) for part in proposal.paddle[twin].parts.values()]
        for twin in twins
        if twin in proposal.paddle
    }
    same = [t for t, some in held.items() if len(some) == len(wanted) and all(map(np.array_equal, some, wanted))]
    return same[0] if len(same) == 1 else ""


def _in_order(layers: Sequence[Layer], tape: Tape) -> list[Layer]:
    """Sort layers by their first calls; layers that are never called come last, in their previous order."""
    position = {path: number for number, path in enumerate(dict.fromkeys(path for path, _ in tape.begun()))}
    return sorted(layers, key=lambda layer: position.get(layer.path or ROOT, len(position)))
