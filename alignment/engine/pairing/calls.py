"""Which layer of the port stands for which of the reference, and which call for which. No framework.

Layers with weights come as certain pairs (``convert.matching.pairing`` finds them). From these the others follow: by
name where names agree; layers between the same two calls of layers with weights by kind and order, call by call, since
one model may use one ReLU where the other has three; containers by the layers that they contain. What has no twin is
listed with the reason: an operation that one side does without a layer is judged by what the container around it hands
on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from alignment.engine.records.tape import Key
from alignment.engine.sides.settings import CONTAINER, OTHER, Settings

# kinds that change no value in a comparison (dropout is off): where they stand decides nothing
PASSIVE = {"dropout", "identity", "flatten"}


@dataclass(frozen=True)
class Side:
    """One model as the matching sees it.

    ``layers`` by path, ``leaves`` those without sublayers, ``calls`` in the order in which they began, ``returns`` the
    shapes of what a layer's first call returned.
    """

    layers: Mapping[str, Settings]
    leaves: frozenset[str]
    calls: Sequence[Key]
    returns: Mapping[str, Sequence[tuple[int, ...]]]

    @property
    def called(self) -> dict[str, None]:
        """Paths of the layers called, in the order of first calls."""
        return dict.fromkeys(path for path, _ in self.calls)


@dataclass
class Matching:
    """``twins``: path in the reference -> path in the port; what has no twin, with the reason.

    ``calls`` holds the same call by call and is what a comparison goes by. A layer without weights may have several
    twins and be the twin of several; ``twins`` holds the first.
    """

    twins: dict[str, str] = field(default_factory=dict)
    calls: dict[Key, Key] = field(default_factory=dict)
    only_reference: dict[str, str] = field(default_factory=dict)
    only_port: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> dict[tuple[str, str], None]:
        """All ``(path, twin)``, each once."""
        return dict.fromkeys([*self.twins.items(), *((key[0], twin[0]) for key, twin in self.calls.items())])


def match(reference: Side, port: Side, certain: Mapping[str, str]) -> Matching:
    """Pair the layers of two models; the ``certain`` pairs are taken as they are."""
    found = Matching(dict(certain))
    found.twins |= _same_names(reference, port, found)
    between = _between(reference, port, found)
    found.calls = numbered(found.twins, reference.calls, port.calls) | between
    for (path, _), (twin, _) in between.items():
        found.twins.setdefault(path, twin)
    for further in (_containers, _same_names_of_other_kinds):
        twins = further(reference, port, found)
        found.twins |= twins
        found.calls |= numbered(twins, reference.calls, port.calls)
    mine = {path: path for path in found.twins}
    yours = {twin: path for path, twin in found.pairs()}
    found.only_reference = _without_twin(reference, {*found.calls}, mine, found, lambda twin: twin in port.leaves)
    found.only_port = _without_twin(port, {*found.calls.values()}, yours, found)
    return found


def numbered(twins: Mapping[str, str], calls: Iterable[Key], twin_calls: Iterable[Key]) -> dict[Key, Key]:
    """Calls of twins, the first with the first and so on; also those that one of both makes and the other does not."""
    mine, yours = Counter(path for path, _ in calls), Counter(path for path, _ in twin_calls)
    return {(path, n): (twin, n) for path, twin in twins.items() for n in range(max(mine[path], yours[twin]))}


def _without_twin(
    side: Side,
    calls: set[Key],
    known: Mapping[str, str],
    found: Matching,
    is_one_layer: Callable[[str], bool] = lambda twin: False,
) -> dict[str, str]:
    """The layers that are not ``known``, and calls that are not among ``calls``, with the reason."""
    around = {path: paths for paths in _grouped(side, known.items()).values() for path in paths}
    reasons = {}
    for path in side.layers:
        if path not in known:
            judged = [other for other in around.get(path, ()) if other in known]
            parts = [outer for outer in _outer(path) if is_one_layer(found.twins.get(outer, ""))]
            if parts:
                reasons[path] = f"a part of {parts[0]}, whose twin is one layer"
            elif judged and path in side.called:
                reasons[path] = f"holds the same layers as {judged[0]}, which is compared"
            else:
                reasons[path] = _why(side, path)
    for path, number in side.calls:
        if path in known and (path, number) not in calls:
            reasons.setdefault(path, f"call {number + 1}: no layer of its kind at this place")
    return reasons


def _why(side: Side, path: str) -> str:
    if path not in side.called:
        return "never called"
    return "no layer of its kind at this place" if path in side.leaves else "no container of the same layers"


def _outer(path: str) -> list[str]:
    """Paths of the containers around a layer, outermost first."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _differ_in_weights(reference: Side, port: Side, path: str) -> bool:
    return reference.layers[path].has_weights != port.layers[path].has_weights


def _same_names(reference: Side, port: Side, found: Matching) -> dict[str, str]:
    taken = set(found.twins.values())
    free = {p: p for p in reference.layers if p in port.layers and p not in found.twins and p not in taken}
    inside, twin_inside = _contents(reference, [(p, p) for p in found.twins]), _contents(port, _turned(found.twins))
    return {
        path: path
        for path in free
        if not _differ_in_weights(reference, port, path)
        and _same_kind(reference.layers[path], port.layers[path])
        and (not inside[path] or not twin_inside[path] or inside[path] & twin_inside[path])
    }


def _same_kind(a: Settings, b: Settings) -> bool:
    return a.category == b.category or bool({a.category, b.category} & {OTHER, CONTAINER})


def _turned(twins: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(twin, path) for path, twin in twins.items()]


def _contents(side: Side, named: Iterable[tuple[str, str]]) -> defaultdict[str, set[str]]:
    """For each container the names of the layers inside.

    ``named`` are ``(path, name)`` of the layers that count, by their names in the reference on either side.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path, name in named:
        if path in side.leaves or side.layers[path].has_weights:
            for outer in _outer(path):
                found[outer].add(name)
    return found


def _between(reference: Side, port: Side, found: Matching) -> dict[Key, Key]:
    """Calls of leaves without weights, in order and by kind, between two calls of layers with weights."""
    back = dict(_turned(found.twins))
    ours = _segments(reference, lambda key: key if key[0] in found.twins else None)
    theirs = _segments(port, lambda key: (back[key[0]], key[1]) if key[0] in back else None)
    pairs: dict[Key, Key] = {}
    for anchor, one in ours.items():
        other = theirs.get(anchor, [])
        a = [_kind(reference.layers[path]) for path, _ in one]
        b = [_kind(port.layers[path]) for path, _ in other]
        for i, j, size in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
            pairs |= {one[i + k]: other[j + k] for k in range(size)}
    return pairs


def _kind(settings: Settings) -> str:
    return settings.category


def _segments(side: Side, name: Callable[[Key], Key | None]) -> dict[Key | None, list[Key]]:
    segments: dict[Key | None, list[Key]] = defaultdict(list)
    anchor = None
    for key in side.calls:
        settings = side.layers[key[0]]
        if name(key) is not None:
            anchor = name(key) if settings.has_weights else anchor
        elif key[0] in side.leaves and not settings.has_weights and settings.category not in (OTHER, CONTAINER):
            segments[anchor].append(key)
    return segments


def _containers(reference: Side, port: Side, found: Matching) -> dict[str, str]:
    """Containers around the same layers that return tensors of the same shapes; of several the outermost.

    What the others do is part of it, and an inner one of one side need not be the inner one of the other.
    """
    counted = {
        key: twin
        for key, twin in found.calls.items()
        if reference.layers[key[0]].category not in PASSIVE and key[0] in {*reference.called}
    }
    pairs = {(path, twin) for (path, _), (twin, _) in counted.items()}
    ours = _grouped(reference, [(path, path) for path, _ in pairs])
    theirs = _grouped(port, [(twin, path) for path, twin in pairs])
    taken = {*found.twins.values()}
    twins = {}
    for inside, paths in ours.items():
        twin = next(iter(theirs.get(inside, [])), None)
        if twin is None or paths[0] in found.twins or twin in taken:
            continue
        if reference.returns.get(paths[0]) == port.returns.get(twin):
            twins[paths[0]] = twin
    return twins


def _grouped(side: Side, named: Iterable[tuple[str, str]]) -> dict[frozenset[str], list[str]]:
    """Containers without weights by what is inside, outermost first."""
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    contents = _contents(side, named)
    for path in sorted((p for p in contents if p in side.called and not side.layers[p].has_weights), key=len):
        groups[frozenset(contents[path])].append(path)
    return groups


def _same_names_of_other_kinds(reference: Side, port: Side, found: Matching) -> dict[str, str]:
    """What is called the same and does something else, when all else is paired: a fault rather than another layer."""
    taken = {twin for _, twin in found.pairs()}
    return {
        path: path
        for path in reference.called
        if path in reference.leaves & port.leaves
        and path not in found.twins
        and path not in taken
        and not _differ_in_weights(reference, port, path)
    }
