"""Propose the key map of two models from their layers: pair the items, then write the lines. No framework."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import permutations

from convert.key_map import DROPPED
from convert.matching.items import AFFINE, PARAMETER, Item, Part, items_of, unpacked
from convert.matching.key_map import ROOT, TRANSPOSE, KeyMap, KeyMapError, Line, Step
from convert.matching.layers import Layer, Shape
from convert.matching.sequence import Pairs, pair

Read = tuple[Sequence[Layer], Sequence[Item]]

ONLY_IN_PORT = "only the port has it"


@dataclass(frozen=True)
class Proposal:
    """Both models' items by key, in order, and their pairs (``twins``: torch -> Paddle).

    ``doubts`` lists items for which names and order disagree: ``(key, twin by order, twin by name)``. ``order`` is the
    position of each torch tensor, ``dropped`` the tensors that Paddle does not need, with the reason, ``notes`` the
    notes on items, ``given`` the keys whose twins the user named.
    """

    torch: Mapping[str, Item]
    paddle: Mapping[str, Item]
    twins: Mapping[str, str]
    doubts: Sequence[tuple[str, str, str]]
    order: Mapping[str, int]
    dropped: Mapping[str, str]
    notes: Mapping[str, str]
    given: frozenset[str]

    def left(self) -> tuple[list[Item], list[Item]]:
        """Return the items without a twin, in torch and in Paddle. Items shared with another item need none."""
        taken = {*self.twins.values()}
        ours = [item for item in self.torch.values() if item.parts and item.key not in self.twins]
        theirs = [item for item in self.paddle.values() if item.parts and item.key not in taken]
        return [item for item in ours if not item.shared], [item for item in theirs if not item.shared]

    def with_twins(self, twins: Mapping[str, str], notes: Mapping[str, str]) -> Proposal:
        """Return a copy with other pairs and notes, and without doubts."""
        return replace(self, twins={**self.twins, **twins}, notes={**self.notes, **notes}, doubts=())

    def key_map(self) -> KeyMap:
        """Return the lines, in the order of torch's tensors. Tensors without a twin are unresolved."""
        last = len(self.order)
        return KeyMap(tuple(sorted(_lines(self), key=lambda line: self.order.get(line.torch or "", last))))


def propose(torch: Sequence[Layer], paddle: Sequence[Layer], given: Mapping[str, str] | None = None) -> Proposal:
    """Pair the items of both models. The layers are in the order of calls or of definition.

    ``given`` holds pairs of layers or of tensors, by path or full name, that are used unchanged.
    """
    ours, theirs = unpacked(items_of(torch), items_of(paddle, transposed=True))
    known = _known(given or {}, (torch, ours), (paddle, theirs))
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
        frozenset(known),
    )


def _known(given: Mapping[str, str], ours: Read, theirs: Read) -> dict[str, str]:
    """Return the given pairs by item keys. Raises ``KeyMapError`` if one names something that does not exist."""
    faults, pairs = [], {}
    for key, twin in given.items():
        mine, yours = _keys(key, *ours), _keys(twin, *theirs)
        faults += [_unknown(key, "torch", *ours)] if mine is None else []
        faults += [_unknown(twin, "Paddle", *theirs)] if yours is None else []
        pairs |= dict(zip(mine or (), yours or ()))
    if faults:
        raise KeyMapError("the key map names what does not exist:", faults)
    return pairs


def _keys(name: str, layers: Sequence[Layer], items: Sequence[Item]) -> list[str] | None:
    """Return the keys of the items that a layer path or a full tensor name refers to.

    The list is empty for a layer without tensors. Returns ``None`` if nothing has this name.
    """
    path = "" if name == ROOT else name
    named = [item.key for item in items if item.kind != PARAMETER and path in (item.key, item.path)]
    owned = [item.key for item in items if path in {part.name for part in item.parts.values()}]
    known = any(path == layer.path or layer.path.startswith(f"{path}.") for layer in layers)
    return named or owned or ([] if known or not path else None)


def _unknown(name: str, side: str, layers: Sequence[Layer], items: Sequence[Item]) -> str:
    close = get_close_matches(name, {layer.path for layer in layers} | {item.key for item in items})
    return f"{name!r}: {side} has no such layer or tensor" + (f"; close to it: {', '.join(close)}" if close else "")


def _layers(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.kind != PARAMETER]


def _parameters(items: Iterable[Item]) -> list[Item]:
    return [item for item in items if item.kind == PARAMETER and item.parts]


def _paired_parameters(ours: Sequence[Item], theirs: Sequence[Item], layers: Pairs, known: Mapping[str, str]) -> Pairs:
    """Pair parameters of containers. Those left over may match parameters of the other side's unpaired layers."""
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
    """Split a layer into parameter items."""
    if item.kind == PARAMETER or item.packed:
        return [item]
    parts = [Item(part.name, PARAMETER, {role: part}, {}) for role, part in item.parts.items()]
    return parts + ([Item(item.path, PARAMETER, {}, item.extra)] if item.extra else [])


def _apart_where_paired(items: Sequence[Item], paired: Iterable[str]) -> list[Item]:
    """Return the items; a layer is split into parameters if one of them was paired."""
    known = {*paired}
    found: list[Item] = []
    for item in items:
        parts = _apart(item)
        found += parts if any(part.key in known for part in parts) else [item]
    return found


# --- lines ------------------------------------------------------------------------------------------------------------


def _lines(proposal: Proposal) -> Iterator[Line]:
    made: dict[str, Line] = {}
    for line in [*_paired(proposal), *_constants(proposal)]:
        yield line
        if line.paddle:
            made[line.paddle] = line
    yield from _again(proposal, made)
    yield from (Line(name, None, dropped=reason) for name, reason in proposal.dropped.items())
    for item in proposal.paddle.values():
        for part in {**item.parts, **item.extra}.values():
            if part.name not in made and part.shared not in made:
                yield Line(None, part.name)


def _again(proposal: Proposal, made: Mapping[str, Line]) -> Iterator[Line]:
    """Yield lines of Paddle tensors that are a second name of another tensor, as in the cells of an LSTM."""
    for item in proposal.paddle.values():
        for part in item.parts.values():
            if part.shared in made and part.name not in made:
                yield replace(made[part.shared], paddle=part.name, note=f"the same tensor as {part.shared}")


def _paired(proposal: Proposal) -> Iterator[Line]:
    for key, item in proposal.torch.items():
        twin = proposal.paddle.get(proposal.twins.get(key, ""))
        note = proposal.notes.get(key, "")
        # parameters are paired by position, since their roles are names: cls_token may be class_token
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
    """Return the steps from a torch tensor to a Paddle tensor; ``None`` if there are none."""
    if part.size != other.size:
        return None
    steps = [Step("rows", part.rows)] if part.rows else []
    turned = other.turned
    if len(part.shape) == 2 and part.matrix and not other.matrix and part.shape[::-1] == other.shape:
        # a port's own matrix is stored like the weight of a Paddle linear layer, transposed
        turned = True
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
    """Return the steps between two shapes of the same size: dimensions of 1 may come and go, others may be permuted."""
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
    """Yield lines of constant buffers, paired by their layer and role, otherwise by full name or by role alone."""
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


def settled_by_names(proposal: Proposal) -> bool:
    """Return whether every item is paired with the item of the same name."""
    return not any(proposal.left()) and all(key == twin for key, twin in proposal.twins.items())


def excused(key_map: KeyMap) -> KeyMap:
    """Return the key map with its unresolved lines marked as present in the port only.

    Use it for models without ``differences``: then only the port has these tensors, and torch has no values for them.
    """
    return KeyMap(tuple(line if line.resolved else replace(line, dropped=ONLY_IN_PORT) for line in key_map))
