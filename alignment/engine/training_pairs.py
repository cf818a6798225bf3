"""Which tensor of the reference is which of the port in a training. Both frameworks meet here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alignment.engine.borrowed import Borrowed
from alignment.engine.pairing.tensors import TensorPairs, Tie
from alignment.engine.result import Skipped
from alignment.engine.sides.model import join
from alignment.engine.sides.settings import Settings
from convert.key_map import DROPPED, twin_name
from convert.matching.pairing import Layer, pair_layers


def pair_tensors(models: Borrowed, key_map: str | Mapping[str, str] | Any = "auto") -> TensorPairs:
    """All parameters and buffers paired, those of each layer with weights with its twin's.

    Raises ``AmbiguousMatch`` where a layer has several possible twins.
    """
    found = TensorPairs(_layer_pairs(models, key_map))
    ours, theirs = _torch_objects(models), _paddle_objects(models)
    couples = [*_couples(models, found.layers, ours, theirs)]
    found.ties = [*_ties(couples, ours, theirs)]
    first = _first_names(models)
    taken: set[int] = set()
    for name, twin in couples:
        canonical = first.get(id(ours[name]), name)
        if canonical not in found.names and id(theirs[twin]) not in taken:
            found.names[canonical] = twin
            taken.add(id(theirs[twin]))
    _account(found, couples, ours, theirs)
    return found


def _layer_pairs(models: Borrowed, key_map: str | Mapping[str, str] | Any) -> dict[str, str]:
    def weighted(settings: Mapping[str, Settings]) -> list[Layer]:
        return [Layer(path, s.category, s.shapes) for path, s in settings.items() if s.has_weights]

    given = {} if isinstance(key_map, str) else getattr(key_map, "layers", lambda: key_map)()
    found = pair_layers(weighted(models.reference_settings), weighted(models.port_settings), given)
    return {path: twin for path, twin in found.items() if path in models.reference}


def _torch_objects(models: Borrowed) -> dict[str, Any]:
    found = {}
    for path, layer in models.reference.items():
        own = {**dict(layer.named_parameters(recurse=False)), **dict(layer.named_buffers(recurse=False))}
        found |= {join(path, name): value for name, value in own.items() if name not in DROPPED}
    return found


def _paddle_objects(models: Borrowed) -> dict[str, Any]:
    found = {}
    for path, layer in models.port.items():
        own = {**layer._parameters, **layer._buffers}
        found |= {join(path, name): value for name, value in own.items() if value is not None}
    return found


def _couples(
    models: Borrowed, layers: Mapping[str, str], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for path, twin in layers.items():
        for name in [*models.reference[path]._parameters, *models.reference[path]._buffers]:
            couple = join(path, name), join(twin, twin_name(name))
            if couple[0] in ours and couple[1] in theirs:
                yield couple


def _first_names(models: Borrowed) -> dict[int, str]:
    """The name under which torch lists a tensor that goes by several."""
    module = models.torch_module
    return {id(value): name for name, value in [*module.named_parameters(), *module.named_buffers()]}


def _ties(couples: list[tuple[str, str]], ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Tie]:
    for side, here, there in (("torch", ours, theirs), ("Paddle", theirs, ours)):
        groups: dict[int, list[tuple[str, str]]] = {}
        for couple in couples:
            one = couple[0] if side == "torch" else couple[1]
            groups.setdefault(id(here[one]), []).append(couple)
        for group in groups.values():
            others = {id(there[couple[1] if side == "torch" else couple[0]]) for couple in group}
            if len(others) > 1:
                yield Tie(tuple(name for name, _ in group), tuple(twin for _, twin in group), side)


def _account(
    found: TensorPairs, couples: list[tuple[str, str]], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
    """What has no twin: parameters that are trained, and the rest."""
    sides = (
        ("torch", ours, {id(ours[name]) for name, _ in couples}, "Paddle"),
        ("Paddle", theirs, {id(theirs[twin]) for _, twin in couples}, "torch"),
    )
    for side, objects, paired, other in sides:
        found.extra[side] = []
        for name, value in objects.items():
            if id(value) in paired:
                continue
            paired.add(id(value))
            trained = value.requires_grad if side == "torch" else _trained_in_paddle(name, value)
            if trained:
                found.extra[side].append(name)
            else:
                found.skipped.append(Skipped(name, "tensor", side, f"no tensor of this place in {other}"))
    _tied_by_value(found, ours, theirs)


def _trained_in_paddle(name: str, value: Any) -> bool:
    return not value.stop_gradient and hasattr(value, "trainable") and value.is_leaf


def _tied_by_value(found: TensorPairs, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """A parameter of one side alone that holds what another one holds: that one serves both on the other side."""
    back = {twin: name for name, twin in found.names.items()}
    for name in [*found.extra["Paddle"]]:
        if twin := _same_values(theirs[name].numpy(), {known: theirs[known].numpy() for known in back}):
            found.extra["Paddle"].remove(name)
            found.ties.append(Tie((back[twin],), (twin, name), "torch"))
    for name in [*found.extra["torch"]]:
        arrays = {known: ours[known].detach().double().numpy() for known in found.names}
        if twin := _same_values(ours[name].detach().double().numpy(), arrays):
            found.extra["torch"].remove(name)
            found.ties.append(Tie((twin, name), (found.names[twin],), "Paddle"))


def _same_values(array: np.ndarray, others: Mapping[str, np.ndarray]) -> str:
    """The first of ``others`` with the same numbers, as they are or transposed; constants are alike by chance."""
    if array.size < 2 or (array == array.flat[0]).all():
        return ""
    for name, other in others.items():
        if any(turn.shape == array.shape and np.array_equal(turn, array) for turn in (other, other.T)):
            return name
    return ""
