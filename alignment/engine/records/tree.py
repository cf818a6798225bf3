"""Traverse nested lists, tuples and dicts with tensors, as layers take and return them. No framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np


def paths(
    value: Any, is_leaf: Callable[[Any], bool], path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield ``(keys and positions that lead to it, leaf)`` of every leaf; mappings in the order of ``in_order``.

    Other values that are no containers are skipped. The path of a value that is a leaf itself is empty.
    """
    if is_leaf(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key in in_order(value):
            yield from paths(value[key], is_leaf, (*path, key))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from paths(item, is_leaf, (*path, number))


def leaves(value: Any, is_leaf: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the leaves only."""
    return (leaf for _, leaf in paths(value, is_leaf))


def in_order(mapping: Mapping[Any, Any]) -> list[Any]:
    """Return the keys of a mapping in an order independent of insertion, as two models may fill a dict differently."""
    return sorted(mapping, key=lambda key: (type(key).__name__, str(key)))


def named_leaves(value: Any, is_leaf: Callable[[Any], bool]) -> Iterator[tuple[str, Any]]:
    """Yield the leaves with their paths joined by points: ``hidden.0``; ``""`` is the whole."""
    return ((".".join(map(str, path)), leaf) for path, leaf in paths(value, is_leaf))


def mapped(value: Any, is_leaf: Callable[[Any], bool], change: Callable[[Any], Any]) -> Any:
    """Return the same structure with every leaf changed; named tuples become tuples."""
    if is_leaf(value):
        return change(value)
    if isinstance(value, Mapping):
        made = {key: mapped(value[key], is_leaf, change) for key in in_order(value)}
        return {key: made[key] for key in value}
    if isinstance(value, (list, tuple)):
        items = [mapped(item, is_leaf, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def as_arrays(value: Any) -> Any:
    """Return the same structure with tensors of either framework, recognised by a method ``numpy``, as arrays."""
    return mapped(value, lambda item: hasattr(item, "numpy") and not isinstance(item, np.ndarray), _array)


def _array(tensor: Any) -> np.ndarray:
    if hasattr(tensor, "resolve_conj"):  # torch's
        tensor = tensor.detach().cpu().resolve_conj()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    bfloat16 = "bfloat16" in str(tensor.dtype)
    return (tensor.astype("float32") if bfloat16 else tensor).numpy()


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments of a model: from one array, a sequence of them, or a mapping by name."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (list, tuple)) else ((inputs,), {})


def is_array(value: object) -> bool:
    """Return whether ``value`` is a numpy array."""
    return isinstance(value, np.ndarray)
