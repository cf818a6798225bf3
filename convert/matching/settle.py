"""Settle pairs that names and order leave open by running both models. No framework: the caller passes a ``Run``.

In a run the port has the weights that the pairs assign to it, and each of its layers is checked for being called with
the same values as its twin. If a layer is called with the values of another layer of the same shapes, the run pairs
those two instead and continues. Layers that are called with the same values (q, k and v; the first layers of two
branches) and parameters of one container are tried in every order. An order is right if the layers that follow agree.
Local agreement is enough: a layer of the port with another setting still passes on its twin's values, so a fault
elsewhere does not affect the choice.
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
"""Groups of up to this many items are tried in all orders (23 runs); larger ones only by exchanging two items."""
ROUNDS = 8
"""Most passes over all groups, while they help: inner layers are settled after the layers that lead to them."""
SCATTERED = 8
"""Up to this many parameters of one shape form a group wherever they are; of more, only those of one layer."""
OUTPUT = "(output)"

BY_RUN = "settled by running both"
BY_DEFINITION = "by the order of definition: the run does not call it"


@dataclass(frozen=True)
class Seen:
    """A call of a layer of the port: whether its inputs agree with its twin's, and a fingerprint of the values."""

    key: str
    agrees: bool
    values: Hashable


@dataclass(frozen=True)
class Outcome:
    """Result of a run: the final pairs, and the calls in order, with the output as the last one."""

    twins: Mapping[str, str]
    seen: Sequence[Seen]

    @property
    def seams(self) -> list[int]:
        """Calls at which the port's values differ from the reference's: indices into ``seen``."""
        return [index for index, call in enumerate(self.seen) if not call.agrees]


Run = Callable[[Mapping[str, str], frozenset[str]], Outcome]
"""``run(twins, fixed)``: run the port with these pairs; the run must not change pairs whose torch key is ``fixed``."""


Twins = Mapping[str, str]
Group = tuple[str, ...]
"""Keys of torch items whose twins could be exchanged."""


def settle(proposal: Proposal, run: Run, together: Iterable[Sequence[str]]) -> Proposal:
    """Return the proposal with the pairs that the run confirms, and notes on the pairs that it chose.

    ``together`` lists keys of torch layers that are called with the same values.

    Raises ``AmbiguousMatch`` if neither names nor the run decide.
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
    """Return uncalled layers that could be exchanged with another uncalled layer and are not decided by names."""
    called = {call.key for call in outcome.seen}
    alike: dict[Hashable, list[str]] = defaultdict(list)
    for key, twin in twins.items():
        item, other = proposal.torch[key], proposal.paddle[twin]
        if twin not in called and PARAMETER not in (item.kind, other.kind) and not item.packed and not other.packed:
            alike[item.signature].append(key)
    groups = [tuple(keys) for keys in alike.values() if len(keys) > 1]
    return [key for group in groups if not told_by_name(group, twins) for key in group if key != twins[key]]


def fixed_by_name(proposal: Proposal) -> frozenset[str]:
    """Return keys of items with the same name on both sides: if a run disagrees, the port's wiring is at fault."""
    return frozenset(k for k, twin in proposal.twins.items() if k == twin and not k.rpartition(".")[2].isdigit())


class _Search:
    """Search state: the best pairs so far (``outcome``), the exchangeable ``groups``, and those that were ``tried``."""

    def __init__(self, proposal: Proposal, run: Run, together: Iterable[Sequence[str]]):
        self.proposal, self.run = proposal, run
        self.fixed = fixed_by_name(proposal) | proposal.given
        self.groups = [*_groups(proposal, together, self.fixed)]
        self.outcome = run(proposal.twins, self.fixed)
        self.tried: set[Group] = set()

    def look(self) -> None:
        """Try other orders within the groups that a seam follows, as long as the number of seams decreases."""
        for _ in range(ROUNDS):
            before = len(self.outcome.seams)
            for family in _families(self.groups):
                open_ones = [group for group in family if self.seams_after(group, self.outcome)]
                if open_ones:
                    self._try_orders(open_ones)
            if not self.outcome.seams or len(self.outcome.seams) == before:
                return

    def seams_after(self, group: Group, outcome: Outcome) -> list[int]:
        """Return the seams between a group's first call and the next group's, where its order has an effect.

        The order of parameters has an effect anywhere, so all seams are returned for them.
        """
        first = {call.key: index for index, call in reversed([*enumerate(outcome.seen)])}
        starts = {g: min((first[outcome.twins[key]] for key in g if outcome.twins[key] in first), default=None)
                  for g in self.groups}  # fmt: skip
        own = starts[group]
        if own is None:
            return outcome.seams
        end = min((start for start in starts.values() if start is not None and start > own), default=len(outcome.seen))
        return [index for index in outcome.seams if own <= index <= end]

    def _try_orders(self, family: Sequence[Group]) -> None:
        """Try every order of the groups' twins, in all groups at once; each group keeps the one with fewest seams."""
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
        """Return other orders of a group's twins; the layers that follow on each branch move with its first layer."""
        twins = tuple(self.outcome.twins[key] for key in group)
        ours, theirs = self._branches(group, twins)
        return [
            {key: twin for mine, yours in zip(group, order) for key, twin in zip(ours[mine], theirs[yours])}
            for order in _orders(twins)
        ]

    def _branches(self, group: Group, twins: Group) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return each branch's layers in the order of calls, by its first layer; only the latter if branches differ."""
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
        """Return the pairs, with those that the run leaves open decided by names.

        Raises ``AmbiguousMatch`` if names do not decide either.
        """
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
                "layers have several possible twins, and the run does not decide, since the port differs after them; "
                "name the right ones in the key map:",
                faults,
            )
        return twins

    def _as_good(self, group: Group, order: Twins) -> bool:
        """Return whether another order has no more seams after the group, and other values at them."""
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
    """Return keys of parameters of the same shape; if these are many, of the same layer in torch or in the port."""
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
    """Collect the groups that repeat in every block of a model; they are tried together."""
    families: dict[Hashable, list[Group]] = defaultdict(list)
    for group in groups:
        families[tuple(map(words, group))].append(group)
    return [*families.values()]


def _segments(starts: Group, items: Mapping[str, Item]) -> dict[str, list[str]]:
    """Return for each of ``starts`` the layers up to the next one, the same number for all."""
    order = [key for key, item in items.items() if item.kind != PARAMETER]
    at = sorted(order.index(key) for key in starts)
    length = min(b - a for a, b in pairwise(at))
    return {order[number]: order[number : number + length] for number in at}


def _orders(twins: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield other orders of ``twins``."""
    if len(twins) <= FULLY:
        yield from (order for order in permutations(twins) if order != twins)
        return
    for i, j in combinations(range(len(twins)), 2):
        order = [*twins]
        order[i], order[j] = order[j], order[i]
        yield tuple(order)


def told_by_name(group: Group, twins: Twins) -> bool:
    """Return whether names support the pairs of every two items of the group."""
    return all(
        told(a, b, twins[a], twins[b]) > 0 and not crossed(a, b, twins[a], twins[b]) for a, b in combinations(group, 2)
    )
