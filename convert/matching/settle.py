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
from dataclasses import dataclass, field
from itertools import combinations, permutations

from convert.matching.derive import Proposal
from convert.matching.items import PARAMETER, words
from convert.matching.key_map import AmbiguousMatch
from convert.matching.sequence import crossed, told

FULLY = 4
"""Up to how many items all orders are tried (23 runs); of more only exchanges of two, one after the other."""
ROUNDS = 4
"""How often all groups are gone through: a block's inner layers are settled after those that lead to them."""
OUTPUT = "(output)"

BY_RUN = "settled by running both"
EITHER = "either order computes the same"


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


@dataclass
class Group:
    """Items of torch, by key, of which each could have the twin of each other."""

    keys: tuple[str, ...]
    best: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def twins(self, pairs: Mapping[str, str]) -> tuple[str, ...]:
        """Their present twins."""
        return tuple(pairs[key] for key in self.keys)


def settle(proposal: Proposal, run: Run, together: Iterable[Sequence[str]]) -> Proposal:
    """The proposal with the pairs that the run confirms, and notes on those that it chose.

    ``together``: keys of torch's layers that are called with the same values.

    Raises ``AmbiguousMatch`` where neither names nor the run tell.
    """
    fixed = fixed_by_name(proposal)
    outcome = run(proposal.twins, fixed)
    groups = [*_groups(proposal, together, fixed)]
    outcome, tried = _searched(outcome, groups, run, fixed)
    notes = {key: BY_RUN for key, twin in outcome.twins.items() if proposal.twins.get(key) != twin}
    if outcome.seams:
        _refuse_open(proposal, outcome, groups, tried, run, fixed)
    doubted = {key for key, *_ in proposal.doubts}
    return proposal.with_twins(outcome.twins, notes | dict.fromkeys(doubted, BY_RUN))


def fixed_by_name(proposal: Proposal) -> frozenset[str]:
    """Keys of items that have one name on both sides: what the run says against it is a fault of the port's wiring."""
    return frozenset(k for k, twin in proposal.twins.items() if k == twin and not k.rpartition(".")[2].isdigit())


def _groups(proposal: Proposal, together: Iterable[Sequence[str]], fixed: frozenset[str]) -> Iterator[Group]:
    place = {key: number for number, key in enumerate(proposal.torch)}
    sets = [*together, *_parameters_of_one_layer(proposal)]
    for keys in dict.fromkeys(tuple(sorted(keys, key=place.__getitem__)) for keys in sets):
        by_shape: dict[Hashable, list[str]] = defaultdict(list)
        for key in keys:
            if key in proposal.twins and key not in fixed:
                by_shape[proposal.torch[key].signature].append(key)
        yield from (Group(tuple(same)) for same in by_shape.values() if len(same) > 1)


def _parameters_of_one_layer(proposal: Proposal) -> list[list[str]]:
    """Keys of parameters that one layer has, in torch or in the port."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key, twin in proposal.twins.items():
        if proposal.torch[key].kind == PARAMETER:
            groups["torch", key.rpartition(".")[0]].append(key)
            groups["Paddle", twin.rpartition(".")[0]].append(key)
    return [*groups.values()]


# --- search -----------------------------------------------------------------------------------------------------------


def _searched(
    outcome: Outcome, groups: Sequence[Group], run: Run, fixed: frozenset[str]
) -> tuple[Outcome, set[tuple[str, ...]]]:
    """The best outcome that other orders within the groups lead to."""
    tried: set[tuple[str, ...]] = set()
    for _ in range(ROUNDS):
        before = len(outcome.seams)
        for family in _families(groups, outcome.twins):
            open_ones = [group for group in family if _followed_by_seam(group, groups, outcome)]
            if open_ones:
                outcome = _best_orders(outcome, open_ones, groups, run, fixed)
                tried |= {group.keys for group in open_ones}
        if not outcome.seams or len(outcome.seams) == before:
            break
    return outcome, tried


def _families(groups: Sequence[Group], twins: Mapping[str, str]) -> list[list[Group]]:
    """Groups of which each block of a model has one: they are tried at once."""
    families: dict[Hashable, list[Group]] = defaultdict(list)
    for group in groups:
        families[tuple(map(words, group.keys))].append(group)
    return [*families.values()]


def _span(group: Group, groups: Sequence[Group], outcome: Outcome) -> range:
    """Calls from a group's first to the next group's first: what the group's order shows in."""
    first = _first_calls(outcome)
    starts = [min((first[t] for t in g.twins(outcome.twins) if t in first), default=-1) for g in groups]
    own = min((first[t] for t in group.twins(outcome.twins) if t in first), default=-1)
    following = [start for start in starts if start > own]
    return range(max(own, 0), min(following, default=len(outcome.seen) - 1) + 1)


def _first_calls(outcome: Outcome) -> dict[str, int]:
    return {call.key: index for index, call in reversed([*enumerate(outcome.seen)])}


def _followed_by_seam(group: Group, groups: Sequence[Group], outcome: Outcome) -> bool:
    return bool(_seams_of(group, groups, outcome))


def _seams_of(group: Group, groups: Sequence[Group], outcome: Outcome) -> list[int]:
    span = _span(group, groups, outcome)
    if outcome.twins and group.keys[0] in outcome.twins and span.start == 0 and not _is_called(group, outcome):
        return outcome.seams  # parameters show anywhere
    return [index for index in outcome.seams if index in span]


def _is_called(group: Group, outcome: Outcome) -> bool:
    called = {call.key for call in outcome.seen}
    return any(twin in called for twin in group.twins(outcome.twins))


def _best_orders(
    outcome: Outcome, family: Sequence[Group], groups: Sequence[Group], run: Run, fixed: frozenset[str]
) -> Outcome:
    """Every order of the groups' twins, in all groups at once; each keeps the one with the fewest seams after it."""
    best = {group.keys: (len(_seams_of(group, groups, outcome)), group.twins(outcome.twins)) for group in family}
    orders = [[*_orders(group.twins(outcome.twins))] for group in family]
    for number in range(max(map(len, orders))):
        twins = dict(outcome.twins)
        for group, choices in zip(family, orders):
            twins |= zip(group.keys, choices[number % len(choices)])
        held = fixed | {key for group in family for key in group.keys}
        other = run(twins, held)
        for group, choices in zip(family, orders):
            seams = len(_seams_of(group, groups, other))
            if seams < best[group.keys][0]:
                best[group.keys] = seams, choices[number % len(choices)]
    twins = dict(outcome.twins)
    for group in family:
        twins |= zip(group.keys, best[group.keys][1])
    if twins == outcome.twins:
        return outcome
    chosen = run(twins, fixed | {key for group in family for key in group.keys})
    return chosen if len(chosen.seams) < len(outcome.seams) else outcome


def _orders(twins: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Other orders of ``twins``."""
    if len(twins) <= FULLY:
        yield from (order for order in permutations(twins) if order != twins)
        return
    for i, j in combinations(range(len(twins)), 2):
        order = [*twins]
        order[i], order[j] = order[j], order[i]
        yield tuple(order)


# --- what stays open --------------------------------------------------------------------------------------------------


def _refuse_open(
    proposal: Proposal, outcome: Outcome, groups: Sequence[Group], tried: set[tuple[str, ...]], run: Run,
    fixed: frozenset[str],
) -> None:  # fmt: skip
    """Refuse groups before a seam whose order the run does not tell, unless their names do."""
    faults = []
    for group in groups:
        open_one = group.keys in tried and _seams_of(group, groups, outcome)
        if not open_one or told_by_name(group, outcome.twins):
            continue
        if _another_order_is_as_good(group, groups, outcome, run, fixed):
            twins = ", ".join(group.twins(outcome.twins))
            faults.append(f"{', '.join(group.keys)} of torch could be {twins} of Paddle in any order")
    if faults:
        raise AmbiguousMatch(
            "layers have several possible twins, and the run does not tell since the port differs after them; "
            "name the right ones in the key map:",
            faults,
        )


def told_by_name(group: Group, twins: Mapping[str, str]) -> bool:
    """Whether names say of every two items of the group that they are as paired."""
    return all(
        told(a, b, twins[a], twins[b]) > 0 and not crossed(a, b, twins[a], twins[b])
        for a, b in combinations(group.keys, 2)
    )


def _another_order_is_as_good(
    group: Group, groups: Sequence[Group], outcome: Outcome, run: Run, fixed: frozenset[str]
) -> bool:
    """Whether another order leads to as few seams, at which other values arrive."""
    seams = _seams_of(group, groups, outcome)
    for order in _orders(group.twins(outcome.twins)):
        other = run({**outcome.twins, **dict(zip(group.keys, order))}, fixed | {*group.keys})
        theirs = _seams_of(group, groups, other)
        if len(theirs) <= len(seams) and [other.seen[i].values for i in theirs] != [
            outcome.seen[i].values for i in seams
        ]:
            return True
    return False
