"""What names and order leave open, settled by running both models. No framework: a ``Run`` is handed in.

In a run the port has the weights that the pairs say, and each of its layers tells whether it is called with the values
that its twin is called with. Where a layer's values are not its twin's but another one's of the same shapes, the run
itself pairs them otherwise and goes on. Layers that are called with the same values (q, k and v; the first layers of
two branches) and parameters of one container are tried in every order; an order is right if what follows agrees with
it. Local agreement is enough: a layer of the port with another setting hands on its twin's values all the same, so that
a fault elsewhere decides nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, permutations

from convert.matching.derive import Proposal
from convert.matching.items import PARAMETER, Item, words
from convert.matching.key_map import AmbiguousMatch
from convert.matching.sequence import crossed, told

FULLY = 4
"""Up to how many items all orders are tried (23 runs); of more only exchanges of two, one after the other."""
ROUNDS = 8
"""How often all groups are gone through, while that helps: inner layers are settled after those that lead to them."""
SCATTERED = 8
"""Up to how many parameters of one shape are a group wherever they are; of more, those of one layer."""
OUTPUT = "(output)"

BY_RUN = "settled by running both"
BY_DEFINITION = "by the order of definition: the run does not call it"


@dataclass(frozen=True)
class Seen:
    """A call of a layer of the port: whether its inputs are its twin's, and what tells them from others."""

    key: str
    agrees: bool
    values: Hashable


@dataclass(frozen=True)
class Outcome:
    """A run: the pairs with which it ended, what was seen in the order of calls, and the output as the last of it."""

    twins: Mapping[str, str]
    seen: Sequence[Seen]

    @property
    def seams(self) -> list[int]:
        """Where the port goes on with other values than the reference: indices into ``seen``."""
        return [index for index, call in enumerate(self.seen) if not call.agrees]


Run = Callable[[Mapping[str, str], frozenset[str]], Outcome]
"""``run(twins, fixed)``: run the port with these pairs, of which the run changes none whose torch key is ``fixed``."""


Twins = Mapping[str, str]
Group = tuple[str, ...]
"""Keys of torch's items of which each could have the twin of each other."""


def settle(proposal: Proposal, run: Run, together: Iterable[Sequence[str]]) -> Proposal:
    """The proposal with the pairs that the run confirms, and notes on those that it chose.

    ``together``: keys of torch's layers that are called with the same values.

    Raises ``AmbiguousMatch`` where neither names nor the run tell.
    """
    search = _Search(proposal, run, together)
    search.look()
    twins = search.outcome.twins
    if search.outcome.seams:
        twins = search.decided_by_name()
    chosen = {key for key, twin in twins.items() if proposal.twins.get(key) != twin}
    chosen |= {key for key, *_ in proposal.doubts}
    notes = dict.fromkeys(_never_called(proposal, twins, search.outcome), BY_DEFINITION) | dict.fromkeys(chosen, BY_RUN)
    return proposal.with_twins(twins, notes)


def _never_called(proposal: Proposal, twins: Twins, outcome: Outcome) -> list[str]:
    """Layers that the run does not call and that another one that it does not call either could be."""
    called = {call.key for call in outcome.seen}
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for key, twin in twins.items():
        item, other = proposal.torch[key], proposal.paddle[twin]
        if twin not in called and PARAMETER not in (item.kind, other.kind) and not item.packed and not other.packed:
            alike[item.signature].append(key)
    groups = [tuple(keys) for keys in alike.values() if len(keys) > 1]
    return [key for group in groups if not told_by_name(group, twins) for key in group if key != twins[key]]


def fixed_by_name(proposal: Proposal) -> frozenset[str]:
    """Keys of items that have one name on both sides: what the run says against it is a fault of the port's wiring."""
    return frozenset(k for k, twin in proposal.twins.items() if k == twin and not k.rpartition(".")[2].isdigit())


class _Search:
    """The best pairs so far (``outcome``), what could be in another order (``groups``), and what was tried."""

    def __init__(self, proposal: Proposal, run: Run, together: Iterable[Sequence[str]]):
        self.proposal, self.run = proposal, run
        self.fixed = fixed_by_name(proposal) | proposal.given
        self.groups = [*_groups(proposal, together, self.fixed)]
        self.outcome = run(proposal.twins, self.fixed)
        self.tried: set[Group] = set()

    def look(self) -> None:
        """Try other orders within the groups that a seam follows, as long as seams vanish."""
        for _ in range(ROUNDS):
            before = len(self.outcome.seams)
            for family in _families(self.groups):
                open_ones = [group for group in family if self.seams_after(group, self.outcome)]
                if open_ones:
                    self._try_orders(open_ones)
            if not self.outcome.seams or len(self.outcome.seams) == before:
                return

    def seams_after(self, group: Group, outcome: Outcome) -> list[int]:
        """Seams from a group's first call to the next group's: where its order shows. A parameter's shows anywhere."""
        first = {call.key: index for index, call in reversed([*enumerate(outcome.seen)])}
        starts = {g: min((first[outcome.twins[key]] for key in g if outcome.twins[key] in first), default=None)
                  for g in self.groups}  # fmt: skip
        own = starts[group]
        if own is None:
            return outcome.seams
        end = min((start for start in starts.values() if start is not None and start > own), default=len(outcome.seen))
        return [index for index in outcome.seams if own <= index <= end]

    def _try_orders(self, family: Sequence[Group]) -> None:
        """Every order of the groups' twins, in all groups at once; each keeps that with the fewest seams after it."""
        best: dict[Group, tuple[int, Twins]] = {
            group: (len(self.seams_after(group, self.outcome)), {}) for group in family
        }
        choices = [self.orders(group) for group in family]
        for number in range(max(map(len, choices))):
            changes = [orders[number % len(orders)] for orders in choices]
            other = self._with(changes, family)
            for group, change in zip(family, changes):
                seams = len(self.seams_after(group, other))
                if seams < best[group][0]:
                    best[group] = seams, change
        chosen = [change for _, change in best.values() if change]
        if chosen:
            other = self._with(chosen, family)
            if len(other.seams) < len(self.outcome.seams):
                self.outcome = other
        self.tried |= {*family}

    def _with(self, changes: Iterable[Twins], held: Iterable[Group]) -> Outcome:
        twins = dict(self.outcome.twins)
        for change in changes:
            twins |= change
        return self.run(twins, self.fixed | {key for group in held for key in group})

    def orders(self, group: Group) -> list[Twins]:
        """Other orders of a group's twins; what follows each of them on its branch goes with it."""
        twins = tuple(self.outcome.twins[key] for key in group)
        ours, theirs = self._branches(group, twins)
        return [
            {key: twin for mine, yours in zip(group, order) for key, twin in zip(ours[mine], theirs[yours])}
            for order in _orders(twins)
        ]

    def _branches(self, group: Group, twins: Group) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """By its first layer, a branch's layers in the order of calls; that alone where branches are not alike."""
        alone = {key: [key] for key in group}, {key: [key] for key in twins}
        if any(self.proposal.torch[key].kind == PARAMETER for key in group):
            return alone
        ours, theirs = _segments(group, self.proposal.torch), _segments(twins, self.proposal.paddle)
        kinds = {
            tuple(items[key].signature for key in segment)
            for segments, items in ((ours, self.proposal.torch), (theirs, self.proposal.paddle))
            for segment in segments.values()
        }
        inside = {self.outcome.twins.get(key) for segment in ours.values() for key in segment}
        closed = inside == {key for segment in theirs.values() for key in segment}
        return (ours, theirs) if closed and len(kinds) == 1 else alone

    def decided_by_name(self) -> Twins:
        """The pairs; what the run leaves open is as the names say. Refuses what they do not tell either."""
        twins, faults = dict(self.outcome.twins), []
        for group in self.groups:
            if group not in self.tried or not self.seams_after(group, self.outcome):
                continue
            orders: list[Twins] = [{}, *self.orders(group)]
            told_so = [order for order in orders if told_by_name(group, {**self.outcome.twins, **order})]
            if len(told_so) == 1:
                twins |= told_so[0]
            elif any(self._as_good(group, order) for order in orders[1:]):
                others = ", ".join(self.outcome.twins[key] for key in group)
                faults.append(f"{', '.join(group)} of torch could be {others} of Paddle in any order")
        if faults:
            raise AmbiguousMatch(
                "layers have several possible twins, and the run does not tell since the port differs after them; "
                "name the right ones in the key map:",
                faults,
            )
        return twins

    def _as_good(self, group: Group, order: Twins) -> bool:
        """Whether another order leads to as few seams, at which other values arrive."""
        other = self._with([order], [group])
        mine, yours = self.seams_after(group, self.outcome), self.seams_after(group, other)
        arrived = [self.outcome.seen[i].values for i in mine], [other.seen[i].values for i in yours]
        return len(yours) <= len(mine) and arrived[0] != arrived[1]


def _groups(proposal: Proposal, together: Iterable[Sequence[str]], fixed: frozenset[str]) -> Iterator[Group]:
    place = {key: number for number, key in enumerate(proposal.torch)}
    sets = [*together, *_parameters(proposal)]
    found = set()
    for keys in sets:
        by_shape: dict[Hashable, list[str]] = defaultdict(list)
        for key in sorted(keys, key=place.__getitem__):
            if key in proposal.twins and key not in fixed:
                by_shape[proposal.torch[key].signature].append(key)
        found |= {tuple(same) for same in by_shape.values() if len(same) > 1}
    return iter(sorted(found, key=lambda group: place[group[0]]))


def _parameters(proposal: Proposal) -> list[list[str]]:
    """Keys of parameters that are of one shape, or of one layer, in torch or in the port, where they are many."""
    of_shape: dict[Hashable, list[str]] = defaultdict(list)
    of_layer: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, twin in proposal.twins.items():
        if proposal.torch[key].kind == PARAMETER:
            of_shape[proposal.torch[key].signature].append(key)
            of_layer["torch", key.rpartition(".")[0]].append(key)
            of_layer["Paddle", twin.rpartition(".")[0]].append(key)
    few = [keys for keys in of_shape.values() if len(keys) <= SCATTERED]
    covered = {key for keys in few for key in keys}
    return few + [keys for keys in of_layer.values() if not covered & {*keys}]


def _families(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups of which each block of a model has one: they are tried at once."""
    families: dict[Hashable, list[Group]] = defaultdict(list)
    for group in groups:
        families[tuple(map(words, group))].append(group)
    return [*families.values()]


def _segments(starts: Group, items: Mapping[str, Item]) -> dict[str, list[str]]:
    """From each of ``starts`` the layers that come up to the next of them, all equally many."""
    order = [key for key, item in items.items() if item.kind != PARAMETER]
    at = sorted(order.index(key) for key in starts)
    length = min(b - a for a, b in pairwise(at))
    return {order[number]: order[number : number + length] for number in at}


def _orders(twins: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Other orders of ``twins``."""
    if len(twins) <= FULLY:
        yield from (order for order in permutations(twins) if order != twins)
        return
    for i, j in combinations(range(len(twins)), 2):
        order = [*twins]
        order[i], order[j] = order[j], order[i]
        yield tuple(order)


def told_by_name(group: Group, twins: Twins) -> bool:
    """Whether names say of every two items of the group that they are as paired."""
    return all(
        told(a, b, twins[a], twins[b]) > 0 and not crossed(a, b, twins[a], twins[b]) for a, b in combinations(group, 2)
    )
