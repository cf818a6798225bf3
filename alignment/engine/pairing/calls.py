"""Pair the layers and calls of the port with those of the reference. No framework.

Layers with weights are paired by the key map, and these pairs are certain; the others follow from them. Layers without
weights are paired by where their values come from and go to: a layer that takes the output of a paired layer, or whose
output a paired layer takes. This is done call by call, since one model may use one ReLU where the other has three.
Where a function in between hides this, layers are paired by kind and order between two calls of layers with weights.
Containers are paired by the layers that they contain. Layers without a twin are listed with the reason: an operation
that one side does without a layer is judged by the inputs and outputs of the layers around it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from alignment.engine.records.tape import ROOT, Key, Record, Tape
from alignment.engine.sides.settings import CONTAINER, OTHER, Settings

# kinds that change no value in a comparison (dropout is off); their position does not matter
PASSIVE = {"dropout", "identity", "flatten"}


@dataclass(frozen=True)
class Model:
    """The parts of a model that the pairing uses: its layers by path, and the tape of its run.

    ``calls`` are in the order in which they began, ``composite`` are the layers that called others, ``returned`` is the
    first completed call of each layer.
    """

    layers: Mapping[str, Settings]
    tape: Tape
    calls: Sequence[Key] = field(init=False)
    composite: frozenset[str] = field(init=False)
    returned: Mapping[str, Record] = field(init=False)

    def __post_init__(self):
        inside = self.tape.children()
        object.__setattr__(self, "calls", self.tape.begun())
        object.__setattr__(self, "returned", {record.path: record for record in reversed(self.tape.records)})
        object.__setattr__(self, "composite", frozenset(record.path for record in self.tape if inside[record.key]))

    @property
    def called(self) -> dict[str, None]:
        """The paths of the called layers, in the order of first calls."""
        return dict.fromkeys(path for path, _ in self.calls)

    def is_single(self, path: str) -> bool:
        """Return whether a called layer made no call itself."""
        return path not in self.composite


@dataclass
class Matching:
    """``twins``: path in the reference -> path in the port; layers without a twin are listed with the reason.

    ``whole`` are layers all of whose own tensors have their twins in the one layer of the port. ``calls`` holds the
    pairs call by call and is what a comparison uses. A layer without weights may have several twins and be the twin of
    several; ``twins`` holds the first. ``certain`` calls are those of layers with weights.
    """

    twins: dict[str, str] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    calls: dict[Key, Key] = field(default_factory=dict)
    certain: set[Key] = field(default_factory=set)
    only_reference: dict[str, str] = field(default_factory=dict)
    only_port: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> dict[tuple[str, str], None]:
        """Return all pairs ``(path, twin)``, each once."""
        return dict.fromkeys([*self.twins.items(), *((key[0], twin[0]) for key, twin in self.calls.items())])


def match(
    reference: Model, port: Model, certain: Mapping[str, str], whole: Iterable[str], finished: bool = True
) -> Matching:
    """Pair the layers of two models that ran; the ``certain`` pairs are kept.

    If the port's run was not ``finished``, its later calls are assumed to match the reference's.
    """
    both = {p: t for p, t in certain.items() if p in reference.layers and t in port.layers}
    found = Matching(dict(both), frozenset(whole))
    found.calls = numbered(found.twins, reference.calls, port.calls, finished)
    found.certain = {key for key in found.calls if reference.layers[key[0]].has_weights}
    found.calls |= _by_flow(reference, port, found)
    found.calls |= _between(reference, port, found, {*certain})
    for (path, _), (twin, _) in found.calls.items():
        found.twins.setdefault(path, twin)
    containers = _containers(reference, port, found, finished) | {ROOT: ROOT}
    found.twins |= containers
    found.calls |= numbered(containers, reference.calls, port.calls, finished)
    named = _same_names(reference, port, found)
    found.twins |= named
    found.calls |= numbered(named, reference.calls, port.calls, finished)
    mine = {path: path for path in found.twins}
    yours = {twin: path for path, twin in found.pairs()}
    found.only_reference = _without_twin(reference, {*found.calls}, mine, found, port.is_single)
    found.only_port = _without_twin(port, {*found.calls.values()}, yours, found)
    return found


def numbered(
    twins: Mapping[str, str], calls: Iterable[Key], twin_calls: Iterable[Key], finished: bool
) -> dict[Key, Key]:
    """Pair the calls of twins in order, as far as both make them, or would have made them."""
    mine, yours = Counter(path for path, _ in calls), Counter(path for path, _ in twin_calls)
    return {
        (path, n): (twin, n)
        for path, twin in twins.items()
        for n in range(min(mine[path], yours[twin]) if finished else mine[path])
    }


def _without_twin(
    side: Model,
    calls: set[Key],
    known: Mapping[str, str],
    found: Matching,
    is_one_layer: Callable[[str], bool] = lambda twin: False,
) -> dict[str, str]:
    """Return the layers not in ``known`` and those with calls not in ``calls``, with the reason."""
    around = {path: paths for paths in _grouped(side, known.items()).values() for path in paths}
    reasons = {}
    for path in side.layers:
        if path not in known:
            judged = [other for other in around.get(path, ()) if other in known]
            parts = [outer for outer in _outer(path) if outer in found.twins and is_one_layer(found.twins[outer])]
            if parts:
                reasons[path] = f"a part of {parts[0]}, whose twin is one layer"
            elif judged and path in side.called:
                reasons[path] = f"holds the same layers as {judged[0]}, which is compared"
            else:
                reasons[path] = _why(side, path)
    for path, number in side.calls:
        if path in known and (path, number) not in calls:
            reasons.setdefault(path, f"call {number + 1}: the other side has no such call")
    return reasons


def _why(side: Model, path: str) -> str:
    if path not in side.called:
        return "never called"
    return "no layer of its kind at this place" if side.is_single(path) else "no container of the same layers"


def _outer(path: str) -> list[str]:
    """Return the paths of the containers around a layer, outermost first."""
    parts = path.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


# --- layers without weights -----------------------------------------------------------------------------------------


class _Flow:
    """The data flow of one run; calls have names that both sides share."""

    def __init__(self, model: Model, names: Mapping[Key, Key], paired: Iterable[str]):
        self.model, self.names, self.paired = model, dict(names), {*paired}
        records = model.tape.by_key()
        inside = model.tape.children()
        single = [records[key] for key in model.calls if key in records and not inside[key]]
        self.free = [record.key for record in single if self._is_free(record.key)]
        self.made: dict[int, Key] = {}
        self.used: dict[int, list[Key]] = defaultdict(list)
        self.takes = {record.key: [ref.index for ref in record.input_refs()] for record in single}
        self.gives = {record.key: [ref.index for ref in record.output_refs()] for record in single}
        for record in single:
            for index in self.takes[record.key]:
                self.used[index].append(record.key)
            for index in self.gives[record.key]:
                self.made.setdefault(index, record.key)

    def _is_free(self, key: Key) -> bool:
        settings = self.model.layers[key[0]]
        return key not in self.names and key[0] not in self.paired and settings.category not in (OTHER, CONTAINER)

    def source(self, key: Key) -> object:
        """Return the paired call whose output ``key`` takes, and the kind of ``key``; None if unknown."""
        makers = [self.made.get(index) for index in self.takes[key]]
        names = [self.names.get(maker) for maker in makers if maker is not None and maker != key]
        return (self.kind(key), tuple(names)) if names and None not in names else None

    def target(self, key: Key) -> object:
        """Return the paired calls that take the output of ``key``, and the kind of ``key``; None if unknown."""
        users = [user for index in self.gives[key] for user in self.used[index] if user != key]
        names = {self.names[user] for user in users if user in self.names}
        return (self.kind(key), tuple(sorted(names))) if names else None

    def kind(self, key: Key) -> str:
        return self.model.layers[key[0]].category


def _by_flow(reference: Model, port: Model, found: Matching) -> dict[Key, Key]:
    """Pair calls of single layers without weights that take from, or give to, paired calls."""
    ours = _Flow(reference, {key: key for key in found.calls}, found.twins)
    theirs = _Flow(port, {twin: key for key, twin in found.calls.items()}, found.twins.values())
    pairs: dict[Key, Key] = {}
    while True:
        new = _alike(ours, theirs, _Flow.source) or _alike(ours, theirs, _Flow.target)
        if not new:
            return pairs
        pairs |= new
        ours.names |= {key: key for key in new}
        theirs.names |= {twin: key for key, twin in new.items()}


def _alike(ours: _Flow, theirs: _Flow, place: Callable[[_Flow, Key], object]) -> dict[Key, Key]:
    """Pair the free calls of each place in order, where both sides have the same number."""
    mine, yours = _at_places(ours, place), _at_places(theirs, place)
    return {
        key: twin
        for where, keys in mine.items()
        if len(keys) == len(yours.get(where, ()))
        for key, twin in zip(keys, yours[where])
    }


def _at_places(flow: _Flow, place: Callable[[_Flow, Key], object]) -> dict[object, list[Key]]:
    found: dict[object, list[Key]] = defaultdict(list)
    for key in flow.free:
        if key not in flow.names and (where := place(flow, key)) is not None:
            found[where].append(key)
    return found


def _between(reference: Model, port: Model, found: Matching, certain: set[str]) -> dict[Key, Key]:
    """Pair the remaining calls by kind and order, between two calls of layers with weights."""
    names = {twin: key for key, twin in found.calls.items()}
    ours = _segments(reference, found.certain, lambda key: key, {*found.calls} | _calls_of(reference, certain))
    theirs = _segments(port, {found.calls[key] for key in found.certain}, lambda key: names[key],
                       {*names} | _calls_of(port, {*found.twins.values()}))  # fmt: skip
    pairs: dict[Key, Key] = {}
    for anchor, one in ours.items():
        other = theirs.get(anchor, [])
        a = [reference.layers[path].category for path, _ in one]
        b = [port.layers[path].category for path, _ in other]
        for i, j, size in SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
            pairs |= {one[i + k]: other[j + k] for k in range(size)}
    mine, yours = reference.tape.by_key(), port.tape.by_key()
    return {key: twin for key, twin in pairs.items() if _may_be_one(mine.get(key), yours.get(twin))}


def _may_be_one(record: Record | None, twin: Record | None) -> bool:
    """Return whether two calls may return one value; the port may use another layout, a fault another height."""
    refs = [call.output_refs() for call in (record, twin) if call is not None]
    if len(refs) < 2 or not all(len(returned) == 1 for returned in refs):
        return True
    ours, theirs = (returned[0].shape for returned in refs)
    return len(ours) == len(theirs) or math.prod(ours) == math.prod(theirs)


def _calls_of(side: Model, paths: set[str]) -> set[Key]:
    return {key for key in side.calls if key[0] in paths}


def _segments(
    side: Model, anchors: set[Key], name: Callable[[Key], Key], paired: set[Key]
) -> dict[Key | None, list[Key]]:
    segments: dict[Key | None, list[Key]] = defaultdict(list)
    anchor = None
    for key in side.calls:
        settings = side.layers[key[0]]
        if key in anchors:
            anchor = name(key)
        elif key not in paired and side.is_single(key[0]) and settings.category not in (OTHER, CONTAINER):
            segments[anchor].append(key)
    return segments


# --- containers -----------------------------------------------------------------------------------------------------


def _same_names(reference: Model, port: Model, found: Matching) -> dict[str, str]:
    """Pair layers and containers without weights by name: for example a pool that is one layer, or several."""
    taken = {twin for _, twin in found.pairs()}
    weighted = {path for path in found.twins if reference.layers[path].has_weights}
    return {
        path: path
        for path in reference.called
        if path in port.called
        and path not in found.twins
        and path not in taken
        and not reference.layers[path].has_weights
        and not port.layers[path].has_weights
        and not any(inner.startswith(f"{path}.") for inner in weighted)
    }


def _contents(side: Model, named: Iterable[tuple[str, str]]) -> defaultdict[str, set[str]]:
    """Return for each container the names of the layers inside.

    ``named`` are ``(path, name)`` of the layers that count, by their names in the reference on either side.
    """
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path, name in named:
        for outer in _outer(path):
            found[outer].add(name)
    return found


def _containers(reference: Model, port: Model, found: Matching, finished: bool) -> dict[str, str]:
    """Pair containers around the same layers; of several on one side, take those of equal name, or the outermost."""
    counted = {
        (key[0], twin[0]) for key, twin in found.calls.items() if reference.layers[key[0]].category not in PASSIVE
    }
    # a layer that is not called, but whose weights a function uses, counts too
    counted |= {(path, twin) for path, twin in found.twins.items() if reference.layers[path].has_weights}
    ours = _grouped(reference, [(path, path) for path, _ in counted])
    theirs = _grouped(port, [(twin, path) for path, twin in counted], finished)
    taken = {*found.twins.values()}
    twins: dict[str, str] = {}
    for inside, paths in ours.items():
        others = [path for path in theirs.get(inside, []) if path not in taken]
        paths = [path for path in paths if path not in found.twins]
        named = {path: path for path in paths if path in others and _returns_alike(reference, path, port, path)}
        alike = [(a, b) for a in paths for b in others if _returns_alike(reference, a, port, b)]
        twins |= named or dict(alike[:1])
    return twins


def _returns_alike(reference: Model, path: str, port: Model, twin: str) -> bool:
    """Return whether two containers return equally many numbers; else their extents differ or one never returned."""
    ours, theirs = (
        [math.prod(ref.shape) for ref in model.returned[name].output_refs()] if name in model.returned else None
        for model, name in ((reference, path), (port, twin))
    )
    return ours is None or theirs is None or ours == theirs


def _grouped(
    side: Model, named: Iterable[tuple[str, str]], finished: bool = True
) -> dict[frozenset[str], list[str]]:
    """Group containers by the called layers inside, outermost first; all containers if the run was aborted."""
    groups: dict[frozenset[str], list[str]] = defaultdict(list)
    contents = _contents(side, named)
    called = side.called if finished else side.layers
    for path in sorted((p for p in contents if p in called), key=len):
        groups[frozenset(contents[path])].append(path)
    return groups
