"""Pair the layers with weights of two models, both described in torch's layout. No framework.

``derive`` pairs tensors. This module pairs layers only, to compare models whose layers were described by other means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches

from convert.matching.differences import MOST
from convert.matching.items import CUSTOM, Item, Part
from convert.matching.key_map import AmbiguousMatch
from convert.matching.layers import Layer
from convert.matching.sequence import PARTLY, Pairs, fit, pair
from paddle_dla.errors import WrongValue

# kinds that do not identify what a layer computes
UNKNOWN = {"other", "container"}


def pair_layers(
    reference: Sequence[Layer], port: Sequence[Layer], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return ``{path in the reference: path in the port}``, in the order of ``reference``, without unpaired layers.

    Both models' layers are in the order of calls or of definition. ``given`` pairs are used unchanged.

    Raises ``AmbiguousMatch`` if a layer has several possible twins, and ``ValueError`` if ``given`` names a layer that
    does not exist.
    """
    known = dict(given or {})
    _refuse_unknown(known, reference, port)
    ours, theirs = [*map(_item, reference)], [*map(_item, port)]
    found = pair(ours, theirs, known)
    _refuse_ambiguous(found, ours, theirs, {*known, *known.values()})
    twins, taken = found.twins, {*found.twins.values()}
    # a layer of the same name and kind but with other shapes is a fault of the port, not another layer
    kinds = {item.key: item.kind for item in theirs}
    twins |= {
        item.key: item.key
        for item in ours
        if item.key not in twins and item.key not in taken and kinds.get(item.key) == item.kind
    }
    return {layer.path: twins[layer.path] for layer in reference if layer.path in twins}


def _item(layer: Layer) -> Item:
    kind = CUSTOM if layer.kind in UNKNOWN else layer.kind.replace("_", "")
    parts = {role: Part(layer.name(role), tuple(shape)) for role, shape in layer.shapes.items()}
    return Item(layer.path, kind, parts, {})


def _refuse_unknown(pairs: Mapping[str, str], reference: Sequence[Layer], port: Sequence[Layer]) -> None:
    for paths, layers, side in ((pairs, reference, "reference"), (pairs.values(), port, "port")):
        known = [layer.path for layer in layers]
        for path in paths:
            if path not in known:
                close = get_close_matches(path, known)
                hint = f"; close to it: {', '.join(close)}" if close else ""
                raise WrongValue(f"the key map names {path!r}, but the {side} has no such layer with weights{hint}")


def _refuse_ambiguous(found: Pairs, ours: Sequence[Item], theirs: Sequence[Item], given: Collection[str]) -> None:
    faults = [f"{key} could be {twin} (by order) or {other} (by name)" for key, twin, other in found.doubts]
    taken = {*found.twins.values()}
    for items, others, done, side in (
        (ours, theirs, found.twins.keys(), "the reference"),
        (theirs, ours, taken, "the port"),
    ):
        for item in items:
            candidates = [other.key for other in others if other.key not in given and fit(item, other) > PARTLY]
            if item.key not in done and candidates:
                faults.append(f"{item.key} of {side} could be {' or '.join(candidates[:MOST])}")
    if faults:
        raise AmbiguousMatch("layers have several possible twins; name the right ones in the key map:", faults)
