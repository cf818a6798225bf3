"""Pair two sequences of items: by given pairs, equal names, order, and again names if order leaves a choice."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from convert.matching.items import AFFINE, CUSTOM, NORMS, PARAMETER, Item, words

# how well two items fit as twins; names add less than 0.1, so they only decide between equal fits
SAME = 1.0
ALIKE = 0.9  # the same tensors in a layer of another kind
PARTLY = 0.7  # the same weight; only one side has a bias, or a scale and shift
NEAR = 0.3  # the same kind in another shape: not a pair, but named when a difference is explained
BY_NAME = 0.09


@dataclass
class Pairs:
    """Result of a pairing.

    ``twins`` maps item keys in torch to keys in Paddle. ``doubts`` lists ``(key, twin by order, twin by name)``.
    """

    twins: dict[str, str] = field(default_factory=dict)
    doubts: list[tuple[str, str, str]] = field(default_factory=list)


def fit(a: Item, b: Item) -> float:
    """Return how well ``a`` fits ``b`` as a twin; 0 if not at all."""
    if a.kind == b.kind in NORMS:
        return _fit_of_norms(a, b)
    if a.kind == b.kind == PARAMETER:
        return SAME if a.squeezed == b.squeezed else ALIKE if sorted(a.squeezed) == sorted(b.squeezed) else NEAR
    affine = {a.kind, b.kind} <= AFFINE
    if a.signature == b.signature:
        return SAME if a.kind == b.kind or affine else ALIKE if _related(a, b) else 0.0
    if CUSTOM in (a.kind, b.kind) and a.kind != PARAMETER != b.kind:
        return PARTLY if sorted(a.squeezed) == sorted(b.squeezed) and {*a.parts} == {*b.parts} else 0.0
    if a.kind != b.kind and not affine:
        return 0.0
    mine, yours = {role: sizes for role, *sizes in a.signature}, {role: sizes for role, *sizes in b.signature}
    main = "weight" if "weight" in mine else next(iter(mine), "")
    return PARTLY if main in yours and mine[main] == yours[main] else NEAR


def _related(a: Item, b: Item) -> bool:
    return CUSTOM in (a.kind, b.kind) or {a.kind, b.kind} <= NORMS


def _fit_of_norms(a: Item, b: Item) -> float:
    if a.signature == b.signature:
        return SAME
    common = {*a.parts} & {*b.parts}
    if all(a.parts[role].size == b.parts[role].size for role in common):
        return PARTLY
    return NEAR


@cache
def likeness(name: str, other: str) -> float:
    """Return the similarity of two names, from 0 to 1: the share of common words, the last word weighing most."""
    a, b = words(name)[::-1], words(other)[::-1]
    if not a or not b:
        return 0.0
    total = sum(0.5**i for i in range(max(len(a), len(b))))
    return sum(0.5 ** max(i, b.index(word)) for i, word in enumerate(a) if word in b and word not in a[:i]) / total


def pair(ours: Sequence[Item], theirs: Sequence[Item], given: Mapping[str, str]) -> Pairs:
    """Pair two lists of items, both in the order of calls or of definition.

    Items for which order and names disagree are paired by order and listed in ``doubts``.
    """
    found = Pairs(dict(given))
    taken = {*found.twins.values()}
    a = [item for item in ours if item.key not in found.twins]
    b = [item for item in theirs if item.key not in taken]
    named = _same_names(a, b)
    if _nothing_else(a, b, named):
        found.twins |= named
        return found
    by_order = aligned(a, b, lambda x, y: fit(x, y) if fit(x, y) > NEAR else 0.0)
    by_order |= _crossing(a, b, by_order)
    found.twins |= by_order
    found.doubts = _doubts(a, {item.key: item for item in b}, by_order, named)
    return found


def _same_names(a: Sequence[Item], b: Sequence[Item]) -> dict[str, str]:
    theirs = {item.key: item for item in b}
    return {item.key: item.key for item in a if item.key in theirs and fit(item, theirs[item.key]) > NEAR}


def _nothing_else(a: Sequence[Item], b: Sequence[Item], named: Mapping[str, str]) -> bool:
    """Return whether no items are left that fit each other, once equal names are paired."""
    left = [item for item in a if item.key not in named]
    right = [item for item in b if item.key not in named]
    return not any(fit(x, y) > NEAR for x in left for y in right)


def aligned(a: Sequence[Item], b: Sequence[Item], score: Callable[[Item, Item], float]) -> dict[str, str]:
    """Return the pairs, in order on both sides, with the largest total score (Needleman-Wunsch without gap cost)."""
    cells: dict[tuple[int, int], float] = {}
    fits: dict[tuple[object, object], float] = {}
    kinds = [(x.kind, x.signature) for x in a], [(y.kind, y.signature) for y in b]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            kind = kinds[0][i], kinds[1][j]
            if kind not in fits:
                fits[kind] = score(x, y)
            if fits[kind]:
                cells[i, j] = fits[kind] + BY_NAME * likeness(x.key, y.key)
    best = [[0.0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in range(len(a) - 1, -1, -1):
        row, below = best[i], best[i + 1]
        for j in range(len(b) - 1, -1, -1):
            paired = cells.get((i, j))
            row[j] = max(below[j], row[j + 1], below[j + 1] + paired if paired else 0.0)
    return _traced(a, b, cells, best)


def _traced(
    a: Sequence[Item], b: Sequence[Item], cells: Mapping[tuple[int, int], float], best: Sequence[Sequence[float]]
) -> dict[str, str]:
    pairs, i, j = {}, 0, 0
    while i < len(a) and j < len(b):
        paired = cells.get((i, j))
        if paired and best[i][j] == best[i + 1][j + 1] + paired:
            pairs[a[i].key] = b[j].key
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs


def _crossing(a: Sequence[Item], b: Sequence[Item], pairs: Mapping[str, str]) -> dict[str, str]:
    """Pair remaining items that fit in a different order, such as a shortcut that one side computes first."""
    taken = {*pairs.values()}
    left = [item for item in a if item.key not in pairs]
    right = [item for item in b if item.key not in taken]
    if not left or not right:
        return {}
    further: dict[str, str] = {}
    for level in (SAME, ALIKE, PARTLY):
        groups: dict[tuple[str, ...], tuple[list[Item], list[Item]]] = defaultdict(lambda: ([], []))
        for item in left:
            if item.key not in further:
                fitting = [y for y in right if y.key not in further.values() and fit(item, y) >= level]
                groups[tuple(y.key for y in fitting)][0].append(item)
                groups[tuple(y.key for y in fitting)][1][:] = fitting
        for mine, yours in groups.values():
            if len(mine) == len(yours):
                further |= {x.key: y.key for x, y in zip(mine, yours)}
    return further


WINDOW = 12
"""How far apart in the order items may be to be distinguished by names: q, k and v of one block, not of two."""


def _doubts(
    a: Sequence[Item], theirs: Mapping[str, Item], pairs: Mapping[str, str], named: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    found = {}
    for key in named:
        # a name that ends in a position (features.3) is no evidence
        if pairs.get(key, key) != key and not key.rpartition(".")[2].isdigit():
            found[key] = (key, pairs[key], key)
    paired = [item for item in a if item.key in pairs]
    for i, x in enumerate(paired):
        for y in paired[i + 1 : i + WINDOW]:
            if x.signature == y.signature and crossed(x.key, y.key, pairs[x.key], pairs[y.key]):
                found.setdefault(x.key, (x.key, pairs[x.key], pairs[y.key]))
                found.setdefault(y.key, (y.key, pairs[y.key], pairs[x.key]))
    return [*found.values()]


def crossed(a: str, b: str, x: str, y: str) -> bool:
    """Return whether names favour the pairs ``a``-``y`` and ``b``-``x`` over ``a``-``x`` and ``b``-``y``."""
    return told(a, b, y, x) > told(a, b, x, y)


def told(a: str, b: str, x: str, y: str) -> int:
    """Return how strongly names support the pairs ``a``-``x`` and ``b``-``y``.

    This is the number of words in which both pairs of siblings differ in the same way. Siblings differ in one component
    only (``attn.q`` and ``attn.k``, ``left.conv`` and ``right.conv``).
    """
    ours, theirs = _components(a, b), _components(x, y)
    if ours is None or theirs is None:
        return 0
    if ours == theirs and not any(component.isdigit() for component in ours):
        return 2  # the same names on both sides (branch7x7_1 and branch1x1), whatever their words; no positions
    (one, two), (first, second) = ([{*words(component)} for component in both] for both in (ours, theirs))
    return len((one - two) & (first - second)) + len((two - one) & (second - first))


def _components(name: str, other: str) -> tuple[str, str] | None:
    """Return the one component in which two names differ, of each; ``None`` if they are not siblings."""
    one, two = (re.split(r"[.[]", n) for n in (name, other))
    apart = [(a, b) for a, b in zip(one, two) if a != b]
    return apart[0] if len(one) == len(two) and len(apart) == 1 else None
