"""The key map of two models, proposed from their layers: which item is which, and the lines. No framework."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

from convert.key_map import DROPPED
from convert.matching.items import AFFINE, CUSTOM, PARAMETER, Item, Part, items_of, unpacked
from convert.matching.key_map import TRANSPOSE, KeyMap, Line, Step
from convert.matching.layers import Layer, Shape
from convert.matching.sequence import Pairs, pair

ONLY_IN_PORT = "only the port has it"


@dataclass(frozen=True)
class Proposal:
    """Both models' items by key, in order, and how they are paired (``twins``: torch -> Paddle).

    ``doubts`` are what names and order contradict each other about: ``(key, twin by order, twin by name)``.
    """

    torch: Mapping[str, Item]
    paddle: Mapping[str, Item]
    twins: Mapping[str, str]
    doubts: Sequence[tuple[str, str, str]]
    order: Mapping[str, int]
    dropped: Mapping[str, str]
    notes: Mapping[str, str]

    def left(self) -> tuple[list[Item], list[Item]]:
        """Items without a twin: in torch, in Paddle. What another item shares needs none."""
        taken = {*self.twins.values()}
        ours = [item for item in self.torch.values() if item.parts and item.key not in self.twins]
        theirs = [item for item in self.paddle.values() if item.parts and item.key not in taken]
        return [item for item in ours if not item.shared], [item for item in theirs if not item.shared]

    def with_twins(self, twins: Mapping[str, str], notes: Mapping[str, str]) -> Proposal:
        """Paired otherwise."""
        return replace(self, twins={**self.twins, **twins}, notes={**self.notes, **notes}, doubts=())

    def key_map(self) -> KeyMap:
        """The lines, in the order of torch's items; what has no twin is unresolved."""
        last = len(self.order)
        return KeyMap(tuple(sorted(_lines(self), key=lambda line: self.order.get(line.torch or "", last))))


def propose(torch: Sequence[Layer], paddle: Sequence[Layer], given: Mapping[str, str] | None = None) -> Proposal:
    """The items of both models, paired. Layers come in the order of calls or of definition.

    ``given``: pairs of layers or of tensors that are taken as they are, by their paths or full names.
    """
    ours, theirs = unpacked(items_of(torch), items_of(paddle, transposed=True))
    known = _known(given or {}, ours, theirs)
    layers = pair(_layers(ours), _layers(theirs), known)
    parameters = _paired_parameters(ours, theirs, layers, known)
    names = [layer.name(role) for layer in torch for role in layer.shapes]
    return Proposal(
        {item.key: item for item in _apart_where_paired(ours, parameters.twins)},
        {item.key: item for item in _apart_where_paired(theirs, parameters.twins.values())},
        layers.twins | parameters.twins,
        [*layers.doubts, *parameters.doubts],
        {name: number for number, name in enumerate(names)},
        {layer.name(role): DROPPED[role] for layer in torch for role in layer.shapes if role in DROPPED},
        {},
    )


def _known(given: Mapping[str, str], ours: Sequence[Item], theirs: Sequence[Item]) -> dict[str, str]:
    keys, twins = {item.key for item in ours}, {item.key for item in theirs}
    return {key: twin for key, twin in given.items() if key in keys and twin in twins}


def _layers(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.kind != PARAMETER]


def _parameters(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.kind == PARAMETER and item.parts]


def _paired_parameters(ours: Sequence[Item], theirs: Sequence[Item], layers: Pairs, known: Mapping[str, str]) -> Pairs:
    """Parameters of containers; what is left over on one side may be a layer's on the other, which found no twin."""
    apart = [part for item in _layers(ours) if item.key not in layers.twins for part in _apart(item)]
    taken = {*layers.twins.values()}
    twins_apart = [part for item in _layers(theirs) if item.key not in taken for part in _apart(item)]
    mine, yours = _parameters(ours), _parameters(theirs)
    found = pair(mine, yours, known)
    for a, b in ((apart, yours), (mine, twins_apart)):
        taken = {*found.twins.values()}
        free = [item for item in a if item.key not in found.twins], [item for item in b if item.key not in taken]
        further = pair(*free, {})
        found = Pairs(found.twins | further.twins, found.doubts + further.doubts)
    return found


def _apart(item: Item) -> list[Item]:
    """A layer as parameters."""
    if item.kind == PARAMETER or item.packed:
        return [item]
    parts = [Item(part.name, PARAMETER, {role: part}, {}) for role, part in item.parts.items()]
    return parts + ([Item(item.path, PARAMETER, {}, item.extra)] if item.extra else [])


def _apart_where_paired(items: Sequence[Item], paired: Iterable[str]) -> list[Item]:
    """The items; a layer is taken apart if that paired any of its parts."""
    known = {*paired}
    found: list[Item] = []
    for item in items:
        parts = _apart(item)
        found += parts if any(part.key in known for part in parts) else [item]
    return found


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(proposal: Proposal) -> Iterator[Line]:
    made: set[str] = set()
    shared = defaultdict(list)
    for item in proposal.paddle.values():
        for part in item.parts.values():
            if part.shared:
                shared[part.shared].append(part.name)
    for line in [*_paired(proposal), *_constants(proposal)]:
        yield line
        if line.paddle:
            made.add(line.paddle)
            for alias in shared.get(line.paddle, ()):
                if alias not in made:
                    made.add(alias)
                    yield replace(line, paddle=alias, note=f"the same tensor as {line.paddle}")
    yield from (Line(name, None, dropped=reason) for name, reason in proposal.dropped.items())
    for item in proposal.paddle.values():
        for part in {**item.parts, **item.extra}.values():
            if part.name not in made:
                made.add(part.name)
                yield Line(None, part.name)


def _paired(proposal: Proposal) -> Iterator[Line]:
    for key, item in proposal.torch.items():
        twin = proposal.paddle.get(proposal.twins.get(key, ""))
        note = proposal.notes.get(key, "")
        # a parameter's role is no part of its name's meaning: cls_token may be class_token
        roles = {role: role for role in item.parts}
        if twin is not None and item.kind == twin.kind == PARAMETER:
            roles = dict(zip(item.parts, twin.parts))
        for role, part in item.parts.items():
            other = twin.parts.get(roles[role]) if twin is not None else None
            steps = steps_between(part, other, item, twin) if other is not None and twin is not None else None
            if other is not None and steps is not None:
                yield Line(part.name, other.name, steps, note=note)
            elif part.shared:
                yield Line(part.name, None, dropped=f"the same tensor as {part.shared}")
            else:
                yield Line(part.name, None)


def steps_between(part: Part, other: Part, item: Item, twin: Item) -> tuple[Step, ...] | None:
    """How a tensor of torch's becomes one of Paddle's; ``None`` where it cannot."""
    if part.size != other.size:
        return None
    steps = [Step("rows", part.rows)] if part.rows else []
    turned = other.turned
    if len(part.shape) == 2 and not turned and twin.kind == CUSTOM and item.kind == "linear":
        # Paddle multiplies from the right, so a matrix of its own is held as its linear layers hold theirs
        turned = part.shape[::-1] == other.shape
    elif part.shape != other.shape:
        moved = _moved(part.shape, other.shape, {item.kind, twin.kind} <= AFFINE)
        if moved is None:
            return None
        steps += moved
    steps += [TRANSPOSE] if turned else []
    if other.rows:
        steps.append(Step("concatenate", (1 if turned else 0,)))
    return tuple(steps)


def _moved(shape: Shape, wanted: Shape, flat: bool) -> list[Step] | None:
    """Steps from a shape to another of as many elements: dimensions of 1 come and go, others change places."""
    inner, target = [tuple(n for n in s if n != 1) for s in (shape, wanted)]
    if inner == target or flat:
        return [Step("reshape", wanted)]
    for axes in permutations(range(len(inner))):
        if tuple(inner[axis] for axis in axes) == target:
            steps = [Step("reshape", inner)] if inner != shape else []
            steps.append(TRANSPOSE if axes == (1, 0) else Step("permute", axes))
            return steps + ([Step("reshape", wanted)] if target != wanted else [])
    return [Step("reshape", wanted)] if math.prod(shape[:1]) == math.prod(wanted[:1]) else None


def _constants(proposal: Proposal) -> Iterator[Line]:
    """Buffers that are no state, by the name of their layer or, where it has another one there, by their own."""
    theirs = {part.name: (role, part) for item in proposal.paddle.values() for role, part in item.extra.items()}
    taken: set[str] = set()
    for key, item in proposal.torch.items():
        twin = proposal.paddle.get(proposal.twins.get(key, ""))
        for role, part in item.extra.items():
            wanted = [twin.extra[role].name] if twin is not None and role in twin.extra else []
            wanted += [part.name]
            wanted += [n for n, (r, _) in theirs.items() if r == role]
            free = [n for n in wanted if n in theirs and n not in taken and theirs[n][1].shape == part.shape]
            name = next(iter(free), None)
            if name is None:
                yield Line(part.name, None, dropped="a constant that the port does not save")
            else:
                taken.add(name)
                yield Line(part.name, name)


def excused(key_map: KeyMap) -> KeyMap:
    """The key map without unresolved lines.

    For models without ``differences``: what is left is what only the port has, and a key map has nothing for it.
    """
    return KeyMap(tuple(line if line.resolved else replace(line, dropped=ONLY_IN_PORT) for line in key_map))
