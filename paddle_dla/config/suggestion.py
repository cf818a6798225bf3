"""Suggest an option for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the most similar key of ``known``: the same last name in another section, or a similar spelling."""
    known = list(known)
    namesakes = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    if namesakes:
        return max(namesakes, key=lambda other: difflib.SequenceMatcher(None, key, other).ratio())
    by_spelling = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if by_spelling and (by_spelling[0].count(".") == key.count(".") or "." not in key):
        return by_spelling[0]
    last = {other.rpartition(".")[2]: other for other in known}
    by_last = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
    return last[by_last[0]] if by_last else (by_spelling[0] if by_spelling else None)
