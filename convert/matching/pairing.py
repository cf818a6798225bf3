"""Which layer with weights of one model is which of another. Plain values: paths, kinds and shapes; no framework.

By name where the names settle it, else by the order in which the layers come (of calls, or of definition) and the
shapes of their tensors. What could be one of several is an error that names them: a wrong guess would load.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches

from convert.matching.key_map import AmbiguousMatch
from convert.matching.layers import Layer

Signature = tuple[tuple[str, int, int], ...]


def signature(layer: Layer) -> Signature:
    """Roles of the tensors with outputs and sizes: a convolution and a linear layer that can be one another agree."""
    return tuple((role, shape[0] if shape else 0, math.prod(shape)) for role, shape in sorted(layer.shapes.items()))


def pair_layers(
    reference: Sequence[Layer], port: Sequence[Layer], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """``{path in the reference: path in the port}``, in the order of ``reference``; what has no twin is not in it.

    Both in the order of calls or of definition. ``given`` pairs are taken as they are.

    Raises ``AmbiguousMatch`` where a layer has several possible twins, and ``ValueError`` where ``given`` names a layer
    that does not exist.
    """
    pairs = dict(given or {})
    _refuse_unknown(pairs, reference, port)
    taken = set(pairs.values())
    ours = {layer.path: layer for layer in reference if layer.path not in pairs}
    theirs = {layer.path: layer for layer in port if layer.path not in taken}
    pairs |= _same_names(ours, theirs) if _names_settle(ours, theirs) else _by_order(ours, theirs)
    taken = set(pairs.values())
    # what is called the same and computes the same, though with other shapes: a fault of the port, not another layer
    pairs |= {
        path: path
        for path, layer in ours.items()
        if path not in pairs and path in theirs and path not in taken and layer.kind == theirs[path].kind
    }
    return {layer.path: pairs[layer.path] for layer in reference if layer.path in pairs}


def _refuse_unknown(given: Mapping[str, str], reference: Sequence[Layer], port: Sequence[Layer]) -> None:
    for paths, layers, side in ((given, reference, "reference"), (given.values(), port, "port")):
        known = [layer.path for layer in layers]
        for path in paths:
            if path not in known:
                close = get_close_matches(path, known)
                hint = f"; close to it: {', '.join(close)}" if close else ""
                raise ValueError(f"the key map names {path!r}, the {side} has no such layer with weights{hint}")


def _same_names(ours: Mapping[str, Layer], theirs: Mapping[str, Layer]) -> dict[str, str]:
    return {path: path for path in ours if path in theirs and signature(ours[path]) == signature(theirs[path])}


def _names_settle(ours: Mapping[str, Layer], theirs: Mapping[str, Layer]) -> bool:
    """Whether nothing that equal names leave over could be paired otherwise."""
    named = _same_names(ours, theirs)
    left = {signature(layer) for path, layer in ours.items() if path not in named}
    return left.isdisjoint(signature(layer) for path, layer in theirs.items() if path not in named)


def _by_order(ours: Mapping[str, Layer], theirs: Mapping[str, Layer]) -> dict[str, str]:
    a, b = [*map(signature, ours.values())], [*map(signature, theirs.values())]
    one, other = [*ours], [*theirs]
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    pairs = {one[i + k]: other[j + k] for i, j, size in blocks for k in range(size)}
    _refuse_leftovers(pairs, dict(zip(one, a)), dict(zip(other, b)))
    _refuse_contradictions(pairs, _same_names(ours, theirs))
    return pairs


def _refuse_leftovers(pairs: Mapping[str, str], a: Mapping[str, Signature], b: Mapping[str, Signature]) -> None:
    """Where all pair off, the order decides. Where some are left over, it does not tell which of their equals."""
    for mine, yours, done, side in ((a, b, pairs.keys(), "reference"), (b, a, set(pairs.values()), "port")):
        for path, wanted in mine.items():
            candidates = [p for p, found in yours.items() if found == wanted]
            if path not in done and candidates:
                raise AmbiguousMatch(
                    f"{path} of the {side} could be {_list(candidates)} (same shapes, another order or number); "
                    "name it in the key map"
                )


def _refuse_contradictions(pairs: Mapping[str, str], named: Mapping[str, str]) -> None:
    """A name that the order contradicts; one that ends in a position (``features.3``) is none."""
    for path in named:
        if pairs.get(path, path) != path and not path.rpartition(".")[2].isdigit():
            raise AmbiguousMatch(
                f"{path} could be {pairs[path]} (by order) or {path} (by name); name it in the key map"
            )


def _list(candidates: Sequence[str], most: int = 8) -> str:
    more = f" or one of {len(candidates) - most} more" if len(candidates) > most else ""
    return " or ".join(candidates[:most]) + more
