"""Compare the structures that models return: mappings by key, sequences by position, and the leaves.

Lists and tuples are equivalent, and the order of a mapping's keys does not count. No framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from alignment.engine.records.tree import in_order, paths

SCALARS = (bool, int, float, complex, str, type(None))


def places(value: Any, is_leaf: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield ``(place, leaf)`` of every leaf in the order of ``tree.leaves``: ``['hidden'][0]``; ``""`` is the whole."""
    return (("".join(f"[{key!r}]" for key in path), leaf) for path, leaf in paths(value, is_leaf))


def structure_differences(
    expected: Any, actual: Any, is_leaf: Callable[[Any], bool], name: Callable[[Any], str], place: str = ""
) -> Iterator[str]:
    """Describe how the structure of ``actual`` differs; ``name`` describes a leaf (``a complex tensor``)."""
    where = f"at {place}, " if place else ""
    if is_leaf(expected) and is_leaf(actual):
        if name(expected) != name(actual):
            yield f"{where}{name(actual)} instead of {name(expected)}"
    elif _is_map(expected, is_leaf) and _is_map(actual, is_leaf):
        missing, more = [k for k in in_order(expected) if k not in actual], [k for k in actual if k not in expected]
        if missing:
            instead = f"; there is {_list(more)} instead" if more else ""
            yield f"{where}the key {_list(missing)} is missing{instead}"
        elif more:
            yield f"{where}the key {_list(more)} is there besides"
        for key in (key for key in in_order(expected) if key in actual):
            yield from structure_differences(expected[key], actual[key], is_leaf, name, f"{place}[{key!r}]")
    elif _is_row(expected, is_leaf) and _is_row(actual, is_leaf):
        if len(expected) != len(actual):
            yield f"{where}a sequence of {len(actual)} instead of {len(expected)}"
        for number, (one, other) in enumerate(zip(expected, actual)):
            yield from structure_differences(one, other, is_leaf, name, f"{place}[{number}]")
    elif isinstance(expected, SCALARS) and isinstance(actual, SCALARS):
        if expected != actual and not (expected != expected and actual != actual):  # NaN != NaN
            yield f"{where}{actual!r} instead of {expected!r}"
    elif is_leaf(expected) or is_leaf(actual) or _what(expected, is_leaf, name) != _what(actual, is_leaf, name):
        ours, theirs = (_what(value, is_leaf, name) for value in (expected, actual))
        yield f"{where}the structure differs: {theirs} instead of {ours}"
    elif isinstance(expected, np.ndarray) and not _equal(expected, actual):
        yield f"{where}other numbers in an array"
    elif not _equal(expected, actual):
        yield f"{where}nothing is compared inside {_what(actual, is_leaf, name)}; return tensors in tuples and dicts"


def _equal(expected: Any, actual: Any) -> bool:
    """Return whether two objects that contain no tensors are known to be equal."""
    try:
        return bool(np.array_equal(expected, actual) if isinstance(expected, np.ndarray) else expected == actual)
    except Exception:  # noqa: BLE001 - their comparison is code of theirs
        return False


def _is_map(value: Any, is_leaf: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and not is_leaf(value)


def _is_row(value: Any, is_leaf: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and not is_leaf(value)


def _what(value: Any, is_leaf: Callable[[Any], bool], name: Callable[[Any], str]) -> str:
    if is_leaf(value):
        return name(value)
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"a sequence ({type(value).__name__}) of {len(value)}"
    return repr(value) if isinstance(value, SCALARS) else f"an object of type {type(value).__name__}"


def _list(keys: list[Any]) -> str:
    return ", ".join(map(repr, keys))
