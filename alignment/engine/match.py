"""Which layer of the port stands for which of the reference. No framework.

By name where names agree; what is left by structure: layers with weights in the order of execution and by the shape
of their weights, the layers between two such by kind and order, containers by the layers that they contain. What has
no twin is listed with the reason; what could be one of several is an error that names them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from alignment.engine.settings import CONTAINER, OTHER, Settings

# a 1x1 convolution and a linear layer compute the same
AFFINE = {"conv": "affine", "linear": "affine"}


class AmbiguousMatch(ValueError):
    """Layers that structure alone cannot tell apart; pass a key map that names the right ones."""


@dataclass(frozen=True)
class Side:
    """One model as the matching sees it: ``layers`` by path, and the paths of those called, in the order of calls."""

    layers: Mapping[str, Settings]
    leaves: frozenset[str]
    called: Sequence[str]


@dataclass
class Matching:
    """``twins``: path in the reference -> path in the port; what has no twin, with the reason."""

    twins: dict[str, str] = field(default_factory=dict)
    only_reference: dict[str, str] = field(default_factory=dict)
    only_port: dict[str, str] = field(default_factory=dict)

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Take pairs that are certain."""
        self.twins.update(pairs)


def match(reference: Side, port: Side, given: Mapping[str, str] | None = None) -> Matching:
    """Pair the layers of two models; ``given`` pairs are taken as they are.

    Raises ``AmbiguousMatch`` where a layer with weights has several possible twins.
    """
    found = Matching(dict(given or {}))
    found.add(_by_name(reference, port, found))
    found.add(_weighted_by_order(reference, port, found))
    found.add(_weightless_between(reference, port, found))
    found.add(_containers(reference, port, found))
    taken = set(found.twins.values())
    found.only_reference = {p: _why(reference, p) for p in reference.layers if p not in found.twins}
    found.only_port = {p: _why(port, p) for p in port.layers if p not in taken}
    return found


def _why(side: Side, path: str) -> str:
    if path not in side.called:
        return "never called"
    return "a container without a twin" if path not in side.leaves else "no layer of its kind at this place"


def _free(side: Side, taken: Iterable[str]) -> list[str]:
    taken = set(taken)
    return [path for path in dict.fromkeys(side.called) if path not in taken]


def _by_name(reference: Side, port: Side, found: Matching) -> list[tuple[str, str]]:
    taken = set(found.twins.values())
    return [
        (path, path)
        for path, settings in reference.layers.items()
        if path in port.layers
        and path not in found.twins
        and path not in taken
        and _may_be_twins(settings, port.layers[path])
    ]


def _may_be_twins(a: Settings, b: Settings) -> bool:
    if a.has_weights != b.has_weights:
        return False
    kinds = {AFFINE.get(a.category, a.category), AFFINE.get(b.category, b.category)}
    return len(kinds) == 1 or bool(kinds & {OTHER, CONTAINER}) or not a.has_weights


def _signature(settings: Settings) -> tuple[object, ...]:
    """Roles of the weights with their sizes; shapes may differ where one is a view of the other."""
    sizes = []
    for role, shape in sorted(settings.shapes.items()):
        size = 1
        for side in shape:
            size *= side
        sizes.append((role, shape[0] if shape else 0, size))
    return tuple(sizes)


def _weighted_by_order(reference: Side, port: Side, found: Matching) -> list[tuple[str, str]]:
    ours = [p for p in _free(reference, found.twins) if reference.layers[p].has_weights]
    theirs = [p for p in _free(port, found.twins.values()) if port.layers[p].has_weights]
    a = [_signature(reference.layers[p]) for p in ours]
    b = [_signature(port.layers[p]) for p in theirs]
    blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
    pairs = [(ours[i + k], theirs[j + k]) for i, j, size in blocks for k in range(size)]
    _refuse_ambiguous(pairs, ours, theirs, dict(zip(ours, a)), dict(zip(theirs, b)))
    return pairs


def _refuse_ambiguous(
    pairs: Sequence[tuple[str, str]],
    ours: Sequence[str],
    theirs: Sequence[str],
    a: Mapping[str, tuple[object, ...]],
    b: Mapping[str, tuple[object, ...]],
) -> None:
    """Where all pair off in order, the order decides. Where some are left over, equal signatures decide nothing."""
    left = [p for p in ours if p not in dict(pairs)]
    spare = [p for p in theirs if p not in {twin for _, twin in pairs}]
    for path in left:
        candidates = [p for p in theirs if b[p] == a[path]]
        if candidates:
            raise AmbiguousMatch(
                f"{path} could be {' or '.join(candidates)} (same shapes, another order); name it in the key map"
            )
    for path in spare:
        candidates = [p for p in ours if a[p] == b[path]]
        if candidates:
            raise AmbiguousMatch(
                f"{path} in the port could be {' or '.join(candidates)} (same shapes, another order); "
                "name it in the key map"
            )


def _weightless_between(reference: Side, port: Side, found: Matching) -> list[tuple[str, str]]:
    """Leaves without weights pair in order, by category, between two anchors that are twins already."""
    anchors = {path: index for index, path in enumerate(p for p in reference.called if p in found.twins)}
    back = {twin: path for path, twin in found.twins.items()}
    ours = _segments(reference, lambda p: p in found.twins, lambda p: p)
    theirs = _segments(port, lambda p: p in back, lambda p: back[p])
    pairs = []
    for anchor in [None, *anchors]:
        one, other = ours.get(anchor, []), theirs.get(anchor, [])
        a = [reference.layers[p].category for p in one]
        b = [port.layers[p].category for p in other]
        for i, j, size in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
            pairs += [(one[i + k], other[j + k]) for k in range(size) if a[i + k] not in (OTHER, CONTAINER)]
    return pairs


def _segments(side: Side, is_anchor, name) -> dict[str | None, list[str]]:
    segments: dict[str | None, list[str]] = defaultdict(list)
    anchor, seen = None, set()
    for path in side.called:
        if is_anchor(path):
            if side.layers[path].has_weights:
                anchor = name(path)
        elif path in side.leaves and path not in seen:
            seen.add(path)
            segments[anchor].append(path)
    return segments


def _containers(reference: Side, port: Side, found: Matching) -> list[tuple[str, str]]:
    """Containers with the same layers inside are twins; of several around the same layers, outermost with outermost."""
    weighted = {p: t for p, t in found.twins.items() if reference.layers[p].has_weights}
    ours = _contents(reference, set(weighted), {p: p for p in weighted}, found.twins)
    theirs = _contents(port, set(weighted.values()), {t: p for p, t in weighted.items()}, found.twins.values())
    return [pair for inside in ours if inside and inside in theirs for pair in zip(ours[inside], theirs[inside])]


def _contents(
    side: Side, inside: set[str], names: Mapping[str, str], taken: Iterable[str]
) -> dict[frozenset[str], list[str]]:
    taken = set(taken)
    found: dict[frozenset[str], list[str]] = defaultdict(list)
    for path in sorted(set(side.called) - side.leaves, key=len):
        if path not in taken and not side.layers[path].has_weights:
            found[frozenset(names[p] for p in inside if p.startswith(f"{path}."))].append(path)
    return found
