"""Pair the tensors of the reference and the port for a training. Uses both frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alignment.engine.borrowed import PORT, REFERENCE, Borrowed
from alignment.engine.pairing.tensors import Layout, TensorPairs, Tie
from alignment.engine.result import Skipped
from alignment.engine.sides.model import join
from alignment.engine.sides.paddle.settings import is_linear
from alignment.engine.sides.settings import Settings
from alignment.engine.sides.side import Side
from alignment.engine.transfer import find
from convert.key_map import twin_name
from convert.matching.items import TURNED
from convert.matching.key_map import TRANSPOSE, KeyMap, KeyMapError, Line
from convert.matching.pairing import Layer, pair_layers


@dataclass(frozen=True)
class PairedLine(Line):
    """A line of the key map that names a tensor of each side."""

    torch: str
    paddle: str


def pair_tensors(models: Borrowed, key_map: str | Mapping[str, str] | KeyMap = "auto") -> TensorPairs:
    """Pair all parameters and buffers: by the lines of a ``KeyMap``, else layer by layer.

    If parameters of both sides remain unpaired (packed ones, parametrizations), the derived key map of both models
    pairs them, if there is one. Raises ``AmbiguousMatch`` where a layer has several possible twins.
    """
    found = _paired(models, key_map)
    if key_map == "auto" and all(found.extra.values()):
        try:
            return _paired(models, find(models.torch_module, models.paddle_layer, None, {}))
        except KeyMapError:
            return found  # unpaired tensors are reported with the verdict
    return found


def _paired(models: Borrowed, key_map: str | Mapping[str, str] | KeyMap) -> TensorPairs:
    ours, theirs = _objects(REFERENCE, models.reference), _objects(PORT, models.port)
    if isinstance(key_map, KeyMap):
        found = TensorPairs({path: twin for path, twin in key_map.layers().items() if path in models.reference})
        lines = [
            PairedLine(line.torch, line.paddle, line.steps, note=line.note)
            for line in key_map
            if line.torch in ours and line.paddle in theirs and not line.dropped
        ]
    else:
        found = TensorPairs(_layer_pairs(models, key_map))
        lines = [*_lines(models, found.layers, ours, theirs)]
    found.ties = [*_ties(lines, ours, theirs)]
    shapes = {name: tuple(value.shape) for name, value in ours.items()}
    found.layout = Layout.of_lines(_once(models, lines, ours, theirs), shapes)
    _account(found, lines, ours, theirs)
    return found


def _once(
    models: Borrowed, lines: list[PairedLine], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[PairedLine]:
    """Yield each tensor of either side once, under the name by which torch lists it."""
    module = models.torch_module
    first = {id(value): name for name, value in [*module.named_parameters(), *module.named_buffers()]}
    taken: set[int] = set()
    for line in lines:
        name = first.get(id(ours[line.torch]), line.torch)
        if line.part or _partial(line):
            yield replace(line, torch=name)
        elif name == line.torch or id(ours[line.torch]) not in taken:
            if id(theirs[line.paddle]) not in taken and id(ours[line.torch]) not in taken:
                yield replace(line, torch=name)
            taken |= {id(ours[line.torch]), id(theirs[line.paddle])}


def _partial(line: Line) -> bool:
    return any(step.word == "rows" for step in line.steps)


def _layer_pairs(models: Borrowed, key_map: str | Mapping[str, str]) -> dict[str, str]:
    def weighted(settings: Mapping[str, Settings]) -> list[Layer]:
        return [Layer(path, s.category, s.shapes) for path, s in settings.items() if s.has_weights]

    given = {} if isinstance(key_map, str) else key_map
    found = pair_layers(weighted(models.reference_settings), weighted(models.port_settings), given)
    return {path: twin for path, twin in found.items() if path in models.reference}


def _lines(
    models: Borrowed, layers: Mapping[str, str], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[PairedLine]:
    for path, twin in layers.items():
        for name in [*models.reference[path]._parameters, *models.reference[path]._buffers]:
            line = PairedLine(join(path, name), join(twin, twin_name(name)))
            turned = name in TURNED and is_linear(models.port[twin])
            if line.torch in ours and line.paddle in theirs:
                yield replace(line, steps=(TRANSPOSE,)) if turned else line


def _objects(side: Side, layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of all ``layers`` by full name."""
    own = {path: side.own_tensors(layer) for path, layer in layers.items()}
    return {join(path, name): value for path, tensors in own.items() for name, value in tensors.items()}


def _ties(lines: list[PairedLine], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Tie]:
    whole = [line for line in lines if not line.part and not _partial(line)]
    for side in ("torch", "Paddle"):
        groups: dict[int, list[PairedLine]] = {}
        for line in whole:
            groups.setdefault(id(ours[line.torch] if side == "torch" else theirs[line.paddle]), []).append(line)
        for group in groups.values():
            if len({id(theirs[line.paddle] if side == "torch" else ours[line.torch]) for line in group}) > 1:
                yield Tie(tuple(line.torch for line in group), tuple(line.paddle for line in group), side)


def _account(found: TensorPairs, lines: list[PairedLine], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Record the tensors without a twin: trained parameters, and the rest."""
    sides = (
        (REFERENCE, ours, {id(ours[line.torch]) for line in lines}, PORT),
        (PORT, theirs, {id(theirs[line.paddle]) for line in lines}, REFERENCE),
    )
    for side, objects, paired, other in sides:
        found.extra[side.LABEL] = []
        for name, value in objects.items():
            if id(value) in paired:
                continue
            paired.add(id(value))
            if side.is_trained(value):
                found.extra[side.LABEL].append(name)
            else:
                found.alone.setdefault(side.LABEL, []).append(name)
                found.skipped.append(Skipped(name, "tensor", side.LABEL, f"no tensor of this place in {other.LABEL}"))
    _tied_by_value(found, ours, theirs)


def _tied_by_value(found: TensorPairs, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Tie a parameter that exists on one side only to a parameter of equal value that serves both on the other side."""
    known = {name: twins[0] for name, twins in found.layout.names().items() if len(twins) == 1}
    back = {twin: name for name, twin in known.items()}
    for name in [*found.extra["Paddle"]]:
        if twin := _same_values(PORT.to_numpy(theirs[name]), {other: PORT.to_numpy(theirs[other]) for other in back}):
            found.extra["Paddle"].remove(name)
            found.ties.append(Tie((back[twin],), (twin, name), "torch"))
    for name in [*found.extra["torch"]]:
        arrays = {other: REFERENCE.to_numpy(ours[other]) for other in known}
        if twin := _same_values(REFERENCE.to_numpy(ours[name]), arrays):
            found.extra["torch"].remove(name)
            found.ties.append(Tie((twin, name), (known[twin],), "Paddle"))


def _same_values(array: np.ndarray, others: Mapping[str, np.ndarray]) -> str:
    """Return the first of ``others`` with the same values, as they are or transposed; constants are equal by chance."""
    if array.size < 2 or (array == array.flat[0]).all():
        return ""
    for name, other in others.items():
        if any(turn.shape == array.shape and np.array_equal(turn, array) for turn in (other, other.T)):
            return name
    return ""
